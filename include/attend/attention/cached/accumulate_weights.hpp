// SPDX-License-Identifier: BSD-3-Clause
// The weights that queries give to the tokens that a cache keeps, added up over the queries, by token:
//
//   score_j += sum over the queries i that see j, and the query heads of j's head, of exp(s_ij - L_i)
//   s_ij     = scale * q_i . k_j, and then the scores of the call (alibi, softcap, ...); -inf where its mask hides j
//
//   query        [sequence, query head, query, key dimension]   those of the tokens that were appended last
//   log_sum_exp  [sequence, query head, query]                  L, as attention from these queries wrote it
//   score        of each stored row of an evicting_cache        what keep_heaviest ranks tokens by
//
// The second of two passes: attention is the first, and no weight is kept. A query sees the tokens up to its own. With
// a rotary policy in attention, rotary_queries of it is given here.
//
// Cost: the bytes of the keys, once for each 16 (query, head) pairs that share them; 2 * key dimension operations and
// an exponential for each weight. Scores and masks apply to logits with the queries in the lanes: where there are some,
// logits are turned around and back. Scratch: 64 bytes for each row of a head, for each thread.
//
// Zhenyu Zhang et al.: H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models, 2023.
#pragma once

#include "../../cache/evicting.hpp"
#include "../../call/plan.hpp"
#include "../../select/page_kinds.hpp"
#include "../../select/stored_scores.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Applies the policies of a call to the logits [lane][stride] of stored rows [0, rows) of a head.
template <class A, class Cache>
void apply_policies(engine::any_policies<A> const& call, tile_rows<A> const& tile, Cache const& cache, index_t sequence,
                    index_t head, index_t rows, float* logits, index_t stride) {
  constexpr int width = simd::width<A>;
  alignas(64) A wide[array_size(max_block_keys * width)] = {};
  simd::vector<A> peak[1];
  for (index_t row = 0; row < rows;) {
    auto const run = cache.rows(sequence, head, row);
    index_t const count = std::min({run.count, rows - row, max_block_keys});
    key_range const range{run.position, run.position + count};
    for (int lane = 0; lane < tile.count; ++lane)
      for (index_t j = 0; j < count; ++j) wide[j * width + lane] = static_cast<A>(logits[lane * stride + row + j]);
    call.apply(1, tile, range, call.classify(tile, range) != visibility::all, wide, peak);
    for (int lane = 0; lane < tile.count; ++lane)
      for (index_t j = 0; j < count; ++j) logits[lane * stride + row + j] = static_cast<float>(wide[j * width + lane]);
    row += count;
  }
}

}  // namespace detail

namespace caches {

/// Adds to the scores of a cache's rows the weights of these queries, which have attended to the cache as it is;
/// shapes stand at the beginning of this file. The options are those of attention that its weights come from: a mask,
/// scores, scale and rotary_queries; and an executor. A weight is at most 1 whatever is given, and one that is no
/// number is 0.
///
/// Throws argument_error, before anything is written, where shapes or an option do not fit, where a sequence has fewer
/// tokens than queries, or where forks share pages and the pool has too few free ones to copy them.
///
///     evicting_cache<float> kept(shape, {.pages = 1024, .page_tokens = 16});
///     cached_attention(kept, q, k, v, o, log_sum_exp{lse});
///     accumulate_weights(q, lse, kept);  // and alibi{slopes}, if attention had it
///     kept.evict(keep_heaviest{.recent = 16, .heaviest = 16});
template <extend::TensorArgument Query, extend::TensorArgument Rows, extend::StorageElement Key,
          extend::StorageElement Value, class... Options>
void accumulate_weights(Query const& query, Rows const& log_sum_exp, evicting_cache<Key, Value>& cache,
                        Options&&... options) {
  using namespace extend;
  using namespace detail;
  arithmetic_mode const arithmetic;
  call::allows<option::mask, option::score, option::scale, option::position, option::executor>::check<Options...>();
  using T = std::remove_const_t<element_of_t<Query const>>;
  using A = accumulation_t<T>;
  static_assert(std::same_as<A, storage_accumulation_t<Key>> && std::same_as<A, storage_accumulation_t<Value>>,
                "attend: queries, keys and values must have one accumulation type");
  static_assert(std::same_as<std::remove_const_t<element_of_t<Rows const>>, A>,
                "attend: log_sum_exp holds the accumulation type: float, or double for tensors of double");
  static_assert(!(rotates_keys<std::remove_cvref_t<Options>> || ...),
                "attend: the keys of a cache are rotated when they are appended: give rotary_queries");
  tensor_view<T const, 4> const q = raise<4>(view_of(query));
  tensor_view<A const, 3> const lse = raise<3>(view_of(log_sum_exp));
  index_t const heads = cache.key_value_heads(), queries = q.extent(2), dimension = q.extent(3);
  check_view("query", q);
  check_extent("query", "sequences", q.extent(0), cache.sequences(), "the cache");
  check_extent("query", "head dimension", dimension, cache.key_dimension(), "the cache");
  if (heads == 0 ? q.extent(1) != 0 : q.extent(1) % heads != 0)
    fail("query", "expected a multiple of ", heads, " heads (the cache), got ", q.extent(1));
  check_view("log_sum_exp", lse);
  check_extent("log_sum_exp", "sequences", lse.extent(0), q.extent(0), "query");
  check_extent("log_sum_exp", "heads", lse.extent(1), q.extent(1), "query");
  check_extent("log_sum_exp", "tokens", lse.extent(2), queries, "query");
  double weights = 0;
  // Key heads that share values are scored one after the other, for the query heads of each.
  index_t const together = cache.heads_together(), of_key = heads_of_key(cache);
  index_t const group = heads > 0 ? q.extent(1) / heads * of_key : 0;
  for (index_t s = 0; s < cache.sequences(); ++s) {
    index_t const size = cache.size(s);
    if (queries > size) fail("query", "expected at most ", size, " tokens (sequence ", s, "), got ", queries);
    for (index_t head = 0; head < heads; head += of_key)
      weights += static_cast<double>(cache.stored(s, head)) * static_cast<double>(group * queries);
  }
  scratch memory_of_call;
  engine::problem<T> problem(q, {},
                             {q.extent(0), q.extent(1), key_heads_of(cache), value_heads_of(cache), queries,
                              call::longest_in(cache, 0), dimension, 0, q.extent(0)});
  auto plan =
      call::plan_on_cache(problem, cache, options::padded_keys(call::lengths_in(cache, 0, memory_of_call)), options...);
  auto const policies = plan.policies();
  engine::erased_policies<A, std::remove_const_t<decltype(policies)>> const call_policies(policies);
  constexpr bool rotates = has_kind<option::position, Options...>;
  bool const applies = has_kind<option::mask, Options...> || has_kind<option::score, Options...>;
  cache.separate();

  // So many queries are scored at once: their scores of a few thousand rows stay in the level-2 cache.
  constexpr index_t most = 16;
  // Beside its product, a weight is an exponential and passes through memory twice.
  double const operations = static_cast<double>(2 * dimension + 30);
  loop_cost const cost{weights * operations, weights * static_cast<double>(dimension) * sizeof(Key) / most};
  index_t const lists = heads / together;
  parallel_for(plan.executor, cache.sequences() * lists, cost, [&](index_t task) {
    index_t const s = task / lists, first_head = task % lists * together, rows = cache.stored(s, first_head);
    index_t const first_position = cache.size(s) - queries, stride = round_up(rows, simd::width<float>);
    scratch memory;
    A* const packed = memory.allocate<A>(most * dimension + 1);
    float* const scores = memory.allocate<float>(most * stride + 1);
    [[maybe_unused]] A* angles = nullptr;
    if constexpr (rotates) angles = memory.allocate<A>(policies.position.buffer_size());
    index_t* const of_group = memory.allocate<index_t>(group + 1);
    // The heads of a group are innermost: those of one query see the same rows.
    index_t const all = queries * group, in_list = together / of_key * all;
    for (index_t next = 0, count = 0; next < in_list; next += count) {
      index_t const first = next % all, head = first_head + next / all * of_key;
      index_t const first_of_group = head / of_key * group;
      std::iota(of_group, of_group + group, first_of_group);
      count = std::min(most, all - first);
      for (index_t i = 0; i < count; ++i) {
        index_t const token = (first + i) / group, of_head = first_of_group + (first + i) % group;
        A* const to = packed + i * dimension;
        simd::widen_row(&q(s, of_head, token, 0), to, dimension);
        if constexpr (rotates)
          policies.position.query_rotation({s, token, first_position + token}, angles).apply(to, to, dimension);
        for (index_t c = 0; c < dimension; ++c) to[c] *= problem.scale;
      }
      auto const seen_by = [&](index_t i) { return cache.row_from(s, head, first_position + (first + i) / group + 1); };
      score_stored_keys(
          cache, s, head, 0, seen_by(count - 1), count, [&](index_t i) { return packed + i * dimension; }, scores,
          stride, false);
      if (applies)
        for (index_t i = 0; i < count; i += simd::width<A>) {
          tile_rows<A> tile;
          engine::place_rows(tile, problem.shape, s, problem.sequences[s], of_group, group, first + i,
                             std::min<index_t>(simd::width<A>, count - i));
          apply_policies(call_policies, tile, cache, s, head, seen_by(count - 1), scores + i * stride, stride);
        }
      for (index_t i = 0; i < count; ++i) {
        A const total = lse(s, first_of_group + (first + i) % group, (first + i) / group);
        if (!std::isfinite(total)) continue;
        using lanes = simd::vector<float>;
        lanes const shift(static_cast<float>(total)), base(static_cast<float>(log2_e)), nothing(0.f), one(1.f);
        for (index_t row = 0, seen = seen_by(i); row < seen;) {
          auto const to = cache.scores(s, first_head, row);
          index_t const here = std::min(static_cast<index_t>(to.size()), seen - row);
          combine_rows(to.data(), scores + i * stride + row, here, [&](lanes const& sum, lanes const& score) {
            lanes const weight = simd::exp2<float>((score - shift) * base);
            return sum + simd::select(weight == weight, simd::select(weight < one, weight, one), nothing);
          });
          row += here;
        }
      }
    }
  });
}

}  // namespace caches

}  // namespace attend::inline ATTEND_TARGET
