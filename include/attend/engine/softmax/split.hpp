// SPDX-License-Identifier: BSD-3-Clause
// The split engine: a few queries per sequence against many keys, each byte of which is read once (decoding).
//
// A task is some of the keys of one (sequence, key-value head), for all query heads that share it and all queries:
// their rows stand beside each other, so that what is read serves all of them (split_task.hpp). Its parts are merged by
// log-sum-exp. A sequence is cut by its own shape alone: so the same bits come out for any number of threads, and
// whatever other sequences the call has.
//
// Cost: the bytes of keys and values that some query sees, once; 2 * (key + value dimension) operations for each
// visible pair. Scratch: for each thread its queries, sums and two lists of rows; for each part one row of floats per
// query.
//
// Tri Dao, Daniel Haziza, Francisco Massa, Grigory Sizov: Flash-Decoding for long-context inference, 2023 (keys split
// and merged). Ke Hong et al.: FlashDecoding++, 2024 (flat products for few queries).
#pragma once

#include "../../core/executor.hpp"
#include "split_task.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Whether a sequence's queries are so few that reading the keys is what it costs. Measured (attend_sweep engines, AMD
/// Zen 4) by rows, (query, head) pairs that share keys, and keys of one head: up to half a vector of rows split keys
/// are always faster. From there to a vector the tiled engine is, as long as it need not wait for memory: up to 1 MB of
/// keys and values, or 256 KB, once widened, where they must be. Up to one and a half it leaves a quarter of its lanes
/// empty, which costs more than to read few keys twice. On an Intel Xeon the tiled engine reads floats from memory
/// faster still: 8192 keys take it 0.6 to 0.9 of the time for any number of rows.
template <Element T, KeyValueSource Source>
bool suits_split(problem<T> const& p, Source const& source, attend::detail::sequence const& sequence) {
  using A = accumulation_t<T>;
  constexpr bool widens =
      !std::same_as<typename Source::key_element, A> || !std::same_as<typename Source::value_element, A>;
  constexpr index_t width = simd::width<A>;
  if (source.key_value_heads() == 0) return false;
  index_t const rows = sequence.asked() * (p.shape.query_heads / source.key_value_heads());
  index_t const numbers = sequence.keys * (p.shape.key_dimension + p.shape.value_dimension);
  if (rows <= width / 2) return true;
  if (rows <= width) return numbers * static_cast<index_t>(sizeof(A)) > index_t{1} << (widens ? 18 : 20);
  return rows <= width * 3 / 2 && numbers > index_t{1} << 16;
}

/// Runs a problem whose arguments are checked, with keys and values from a source. There are no slots and no value
/// gains, and the normalizer is a softmax. Weights are for the tensors of the problem alone.
template <Element T, KeyValueSource Source, class Steering, class E>
void run_split(problem<T> const& p, Source const& source, Steering const& steer, E& executor) {
  using A = accumulation_t<T>;
  static_assert(Steering::normalizer_type::keeps_maximum, "attend: keys are split for softmax only");
  static_assert(std::same_as<A, storage_accumulation_t<typename Source::key_element>> &&
                    std::same_as<A, storage_accumulation_t<typename Source::value_element>>,
                "attend: queries, keys and values must have one accumulation type");
  if (p.shape.batches == 0 || p.shape.query_heads == 0 || p.shape.queries == 0) return;

  // How the keys of a sequence are split: enough parts for some threads, each with so much to read that its beginning
  // costs little.
  constexpr double wanted_parts = 32, min_bytes = 1 << 20;
  index_t const sequences = p.sequences.size(), groups = source.key_value_heads();
  double const row_bytes = static_cast<double>(source.key_dimension()) * sizeof(typename Source::key_element) /
                               elements_in<typename Source::key_element> +
                           static_cast<double>(source.value_dimension()) * sizeof(typename Source::value_element) /
                               elements_in<typename Source::value_element>;

  scratch memory;
  index_t const stride = split_task<T, Source, Steering>::sum_stride(source.value_dimension());
  auto* const shares = new (memory.allocate<split_share<A>>(sequences * groups + 1))
      split_share<A>[static_cast<std::size_t>(sequences * groups + 1)];
  index_t* const part_rows = memory.allocate<index_t>(sequences);
  index_t tasks = 0;
  attend::detail::loop_cost cost;
  for (index_t s = 0; s < sequences; ++s) {
    attend::detail::sequence const sequence = p.sequences[s];
    if (!p.chosen(s)) {
      for (index_t g = 0; g < groups; ++g) shares[s * groups + g].first_task = tasks;
      continue;
    }
    double bytes = 0;
    for (index_t g = 0; g < groups; ++g) bytes += row_bytes * static_cast<double>(source.stored(s, g));
    part_rows[s] =
        round_up(static_cast<index_t>(std::max(bytes / wanted_parts, min_bytes) / std::max(row_bytes, 1.0)) + 1,
                 split_block_keys);
    if (index_t const padding = p.sequences.padding(s); padding > 0)
      for (index_t head = 0; head < p.shape.query_heads; ++head) clear_rows(p, s, head, sequence.queries, padding);
    // Where the final logits will stand, of the weights before they become those.
    for (tensor_view<A, 4> const* pairs : {&p.weights, &p.logits})
      if (pairs->data() && p.shape.keys > 0)
        for (index_t head = 0; head < p.shape.query_heads; ++head)
          for (index_t query = sequence.answered; query < sequence.queries; ++query)
            std::fill_n(&(*pairs)(s, head, query, 0), p.shape.keys, -infinity<A>);
    index_t const rows = sequence.asked() * (p.shape.query_heads / groups);
    cost.bytes += bytes;
    cost.operations += bytes / std::max(row_bytes, 1.0) * 2 * static_cast<double>(rows) *
                       static_cast<double>(p.shape.key_dimension + p.shape.value_dimension);
    for (index_t g = 0; g < groups; ++g) {
      split_share<A>& share = shares[s * groups + g];
      share.first_task = tasks;
      if (rows == 0) continue;
      share.parts = std::max<index_t>(divide_up(source.stored(s, g), part_rows[s]), 1);
      share.sum = memory.allocate<A>(share.parts * rows * stride);
      share.maximum = memory.allocate<A>(share.parts * rows);
      share.weight_sum = memory.allocate<A>(share.parts * rows);
      tasks += share.parts;
    }
  }
  shares[sequences * groups].first_task = tasks;

  auto const run_task = [&](index_t number) {
    index_t const after =
        std::upper_bound(shares, shares + sequences * groups, number,
                         [](index_t task, split_share<A> const& share) { return task < share.first_task; }) -
        shares;
    index_t const s = (after - 1) / groups, g = (after - 1) % groups;
    split_share<A>& share = shares[after - 1];
    split_task<T, Source, Steering>(p, source, steer)
        .run(s, p.sequences[s], g, number - share.first_task, part_rows[s], share);
  };
  attend::detail::parallel_for(executor, tasks, cost, run_task);
}

}  // namespace attend::inline ATTEND_TARGET::engine
