// SPDX-License-Identifier: BSD-3-Clause
// The split engine: a few queries per sequence against many keys, each byte of which is read once (decoding).
//
// A task is a part of the keys of one (sequence, key-value head), for all query heads that share the head and for all
// queries: their rows share what is read (split_task.hpp). The parts of a (sequence, head) are merged by their maxima
// and weight sums. How a sequence is cut depends on its own shape alone: so its results have the same bits for any
// number of threads, and whatever other sequences the call has.
//
// Where keys and values have different numbers of heads, several key-value heads share keys, or values, or are linked
// by what they share: 4 key heads and 16 value heads are 4 sets of 4 key-value heads. Their tasks are one task, in
// which they take turns, a block of keys each: what is shared is read from memory by the first and from the cache by
// the others. Logits of shared keys are computed by the first for all of them (split_scores.hpp).
//
// Cost: the bytes of keys and values that are visible to some query, once; 2 * (key + value dimension) operations for
// each visible pair. Scratch: for each thread its queries, sums and two lists of rows; for each part one row of floats
// per query.
//
// Tri Dao, Daniel Haziza, Francisco Massa, Grigory Sizov: Flash-Decoding for long-context inference, 2023 (keys split
// and merged). Ke Hong et al.: FlashDecoding++, 2024 (flat products for few queries).
#pragma once

#include "../../core/executor.hpp"
#include "any_source.hpp"
#include "split_task.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Whether the split engine is faster than the tiled engine for a sequence: its queries are so few that reading the
/// keys is the cost. Measured on an AMD Zen 4 (attend_sweep engines) against the number of rows, which are (query,
/// head) pairs that share keys, and the number of keys of one head:
/// - Up to half a vector of rows, the split engine is always faster.
/// - Up to one vector, the tiled engine is faster as long as it does not wait for memory: up to as many bytes of keys
///   and values in the accumulation type as machine::split_bytes says, or a quarter of that where they must be widened.
/// - Up to one and a half vectors, the tiled engine leaves a quarter of its lanes empty, which costs more than reading
///   the keys twice where they are few.
/// On an Intel Xeon the tiled engine reads floats from memory faster still: 8192 keys take it 0.6 to 0.9 of the time
/// for any number of rows. With a matrix unit the split engine is faster up to a vector of rows, by a tenth to a half;
/// with more vectors, the tiled engine transposes values once for all of them.
template <class Access = token_access<>, Element T, KeyValueSource Source>
bool suits_split(problem<T> const& p, Source const& source, attend::detail::sequence const& sequence) {
  using A = accumulation_t<T>;
  constexpr bool widens =
      !std::same_as<typename Source::key_element, A> || !std::same_as<typename Source::value_element, A>;
  constexpr index_t width = simd::width<A>;
  if (source.key_value_heads() == 0) return false;
  index_t const rows = sequence.asked() * (p.shape.query_heads / source.key_value_heads());
  index_t const bytes = sequence.keys * (p.shape.key_dimension + p.shape.value_dimension) * index_t{sizeof(A)};
  index_t const limit = attend::detail::machine::here().split_bytes;
  if (splits_in_pairs<Source, Access>(p, rows)) return rows <= width;
  if (rows <= width / 2) return true;
  if (rows <= width) return bytes > (widens ? limit / 4 : limit);
  return rows <= width * 3 / 2 && bytes > limit / 4;
}

/// The tasks of a call. Its policies are behind an interface, so the class is compiled once for all of them.
template <Element T, KeyValueSource Source, class Access, bool Integers>
class split_run {
 public:
  using A = accumulation_t<T>;
  using task_type = split_task<T, Source, Access, Integers>;
  static_assert(std::same_as<A, storage_accumulation_t<typename Source::key_element>> &&
                    std::same_as<A, storage_accumulation_t<typename Source::value_element>>,
                "attend: queries, keys and values must have one accumulation type");

  split_run(problem<T> const& p, Source const& source, any_policies<A> const& call, Access const& access)
      : p_(p),
        source_(source),
        call_(call),
        access_(access),
        groups_(source.key_value_heads()),
        sets_(std::gcd(source.key_heads(), source.value_heads())) {
    if constexpr (task_type::turns_keys) turns_ = {memory_, access.position};
    index_t const sequences = p.sequences.size(), shares = sequences * groups_ + 1;
    shares_ = new (memory_.allocate<split_share<A>>(shares)) split_share<A>[static_cast<std::size_t>(shares)];
    part_rows_ = memory_.allocate<index_t>(sequences);
    for (index_t s = 0; s < sequences; ++s) cut(s);
    shares_[sequences * groups_].first_task = tasks_;
  }

  void run(detail::any_executor const& executor) {
    split_share<A>* const end = shares_ + p_.sequences.size() * groups_;
    executor.run(tasks_, cost_, [&](index_t number) {
      index_t const at =
          std::upper_bound(shares_, end, number,
                           [](index_t task, split_share<A> const& share) { return task < share.first_task; }) -
          shares_ - 1;
      index_t const s = at / groups_;
      take_turns(s, at % groups_ / groups_of_set() * groups_of_set(), number - shares_[at].first_task);
    });
  }

 private:
  // The keys of a sequence are split into enough parts for several threads, but each part reads at least min_bytes, so
  // that packing the queries and merging the parts cost little beside it.
  static constexpr double wanted_parts = 32, min_bytes = 1 << 20;

  index_t groups_of_set() const { return groups_ / sets_; }

  /// The heads of a set, while they take turns.
  struct heads_in_turns {
    task_type* task;
    index_t count = 0;

    ~heads_in_turns() {
      while (count > 0) task[--count].~task_type();
    }
  };

  /// Processes one part of the keys of a sequence for the heads of a set, of which `first` is the first.
  void take_turns(index_t s, index_t first, index_t part) {
    index_t const of_key = attend::detail::heads_of_key(source_), of_value = attend::detail::heads_of_value(source_);
    scratch memory;
    heads_in_turns heads{memory.allocate<task_type>(groups_of_set())};
    for (index_t g = first; g < first + groups_of_set(); ++g, ++heads.count)
      new (heads.task + heads.count) task_type(
          p_, source_, call_, access_, turns_,
          {s, p_.sequences[s], g, part, part_rows_[s], groups_of_set() > 1, g % of_key == 0, g % of_value == 0, of_key},
          shares_[s * groups_ + g], g % of_key == 0 ? nullptr : heads.task + (g - g % of_key - first));
    for (bool more = true; more;) {
      more = false;
      for (index_t i = 0; i < heads.count; ++i) more |= heads.task[i].add_block();
    }
    for (index_t i = 0; i < heads.count; ++i) heads.task[i].close();
  }

  void cut(index_t s) {
    for (index_t g = 0; g < groups_; ++g) shares_[s * groups_ + g].first_task = tasks_;
    if (!p_.chosen(s)) return;
    attend::detail::sequence const sequence = p_.sequences[s];
    clear_block_maxima(p_, sequence);
    // The bytes of a token that the heads of a set read.
    double const row_bytes =
        bytes_of_row<typename Source::key_element>(source_.key_dimension(), source_.key_heads()) +
        bytes_of_row<typename Source::value_element>(source_.value_dimension(), source_.value_heads());
    double bytes = 0;
    for (index_t g = 0; g < groups_; g += groups_of_set())
      bytes += row_bytes * static_cast<double>(source_.stored(s, g));
    part_rows_[s] =
        round_up(static_cast<index_t>(std::max(bytes / wanted_parts, min_bytes) / std::max(row_bytes, 1.0)) + 1,
                 split_block_keys);
    if (index_t const padding = p_.sequences.padding(s); padding > 0)
      for (index_t head = 0; head < p_.shape.query_heads; ++head) clear_rows(p_, s, head, sequence.queries, padding);
    // Logits that no task writes are those of hidden keys. The tensor of weights holds the final logits until
    // row_epilogue turns them into weights.
    for (tensor_view<A, 4> const* pairs : {&p_.weights, &p_.logits})
      if (pairs->data() && p_.shape.keys > 0)
        for (index_t head = 0; head < p_.shape.query_heads; ++head)
          for (index_t query = sequence.answered; query < sequence.queries; ++query)
            std::fill_n(&(*pairs)(s, head, query, 0), p_.shape.keys, -infinity<A>);
    index_t const rows = sequence.asked() * (p_.shape.query_heads / groups_);
    cost_.bytes += bytes;
    cost_.operations += bytes / std::max(row_bytes, 1.0) * 2 * static_cast<double>(rows * groups_of_set()) *
                        static_cast<double>(p_.shape.key_dimension + p_.shape.value_dimension);
    index_t const stride = task_type::sum_stride(source_.value_dimension());
    for (index_t g = 0; g < groups_; ++g) {
      split_share<A>& share = shares_[s * groups_ + g];
      share.first_task = tasks_;
      if (rows == 0) continue;
      share.parts = std::max<index_t>(divide_up(source_.stored(s, g), part_rows_[s]), 1);
      share.states = share.parts + (p_.slots() > 0 ? 1 : 0);
      share.sum = memory_.allocate<A>(share.states * rows * stride);
      share.maximum = memory_.allocate<A>(share.states * rows);
      share.weight_sum = memory_.allocate<A>(share.states * rows);
      if (p_.statistics.any()) allocate_statistics(share, s, source_.stored(s, g), rows);
      if ((g + 1) % groups_of_set() == 0) tasks_ += share.parts;
    }
  }

  /// Allocates the states of the statistics of `rows` rows, for the parts of `stored` keys.
  void allocate_statistics(split_share<A>& share, index_t s, index_t stored, index_t rows) {
    constexpr index_t width = simd::width<A>;
    index_t const keys = p_.sequences[s].keys, groups = divide_up(rows, width);
    // Where keys were dropped, those of a part may have any positions.
    index_t const of_part =
        stored < keys ? keys : std::max(round_up(divide_up(stored, share.parts), split_block_keys), part_rows_[s]);
    index_t const size = largest_layout(p_.statistics, s, keys, of_part, width).size();
    share.statistics = memory_.allocate<statistics_part<A>>(share.parts * groups);
    for (index_t i = 0; i < share.parts * groups; ++i) share.statistics[i].state = memory_.allocate<A>(size);
  }

  template <StorageElement Number>
  double bytes_of_row(index_t dimension, index_t heads) const {
    return static_cast<double>(heads / sets_ * dimension) * sizeof(Number) / elements_in<Number>;
  }

  problem<T> const& p_;
  Source const& source_;
  any_policies<A> const& call_;
  Access const& access_;
  index_t groups_, sets_, tasks_ = 0;
  attend::detail::loop_cost cost_;
  scratch memory_;
  attend::detail::turn_table<A> turns_;  // where keys are rotated as they are read
  split_share<A>* shares_ = nullptr;     // of each sequence and group
  index_t* part_rows_ = nullptr;         // of each sequence, the minimum number of keys of a part
};

/// Runs all tasks, for any policies and any executor: a program may compile this function once.
template <Element T, KeyValueSource Source, class Access>
void run_split_tasks(problem<T> const& p, Source const& source, any_policies<accumulation_t<T>> const& call,
                     Access const& access, detail::any_executor const& executor) {
  if constexpr (multiplies_integers<T, Source>)
    if (!p.full_precision && pairs_are_in_place<typename Source::key_element>(source.key_dimension()) &&
        pairs_are_in_place<typename Source::value_element>(source.value_dimension()))
      return split_run<T, Source, Access, true>(p, source, call, access).run(executor);
  split_run<T, Source, Access, false>(p, source, call, access).run(executor);
}

/// Runs a problem whose arguments are checked, with keys and values from a source. The problem may ask for weights only
/// where the source is its own tensors.
template <Element T, KeyValueSource Source, class Policies, class E>
void run_split(problem<T> const& p, Source const& source, Policies const& policies, E& executor) {
  if (p.shape.batches == 0 || p.shape.query_heads == 0 || p.shape.queries == 0) return;
  erased_policies<accumulation_t<T>, Policies> const call(policies);
  run_split_tasks<T>(p, source_of_engine(source), call, policies.access(), detail::any_executor(executor));
}

}  // namespace attend::inline ATTEND_TARGET::engine
