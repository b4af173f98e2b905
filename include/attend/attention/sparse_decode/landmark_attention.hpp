// SPDX-License-Identifier: BSD-3-Clause
// Landmark attention with retrieval: each block of tokens ends in a landmark, whose weight is handed to its block.
//
//   block b = l tokens and a landmark; queries stand in the last block, which is not full, or is full with the last one
//   P = softmax over {the last block's own tokens} and {landmarks of the chosen blocks}     of scale * q . k
//   pi_b = softmax over the l tokens of block b
//   o = sum_{j own} P_j v_j + sum_b P_landmark(b) sum_{j in b} pi_b(j) v_j
//
// chosen blocks: those of the largest landmark logits (landmark_selector.hpp), for each query and head or for several
// together. With all of them it is the attention that the model was trained with. Landmarks have no value, and a
// block's own landmark is not seen within it.
//
//   landmark_attention   the last tokens of a cache, one or as many as its last block has
//   landmark_prefill     appends tokens, a block at a time, which attend to blocks before theirs: a prompt
//
//   shapes as for cached_attention
//
// With a rotary policy the cache's keys are ones that are not rotated, and blocks stand in slots just before the own
// block, so that no distance is longer than k + 2 blocks. Without one, keys stand where the cache has them.
//
// A landmark finds what the model has trained it to stand for: a key within a block that its landmark does not tell of
// is not found.
//
// Each list is read once, as one task of the split engine whose blocks of rows are groups with a softmax each
// (engine/softmax/split_groups.hpp). Bytes of a step: a key for each block, and the chosen keys and values of each
// list, landmarks included.
//
// Amirkeivan Mohtashami, Martin Jaggi: Landmark Attention: Random-Access Infinite Context Length for Transformers,
// 2023.
#pragma once

#include "../../policy/score/scale.hpp"
#include "../../select/selected_rows.hpp"
#include "../cached/cached_attention.hpp"
#include "landmark_selector.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Where rows of the selector's lists stand. Queries have `behind` tokens of the cache behind them that they do not
/// see.
template <Element S>
struct landmark_places {
  static constexpr bool reads_positions = false;

  systems::landmark_selector<S> const* selector;
  index_t heads_of_list, behind;

  index_t key(attended_place const& at) const {
    index_t const tokens = selector->block_tokens();
    return selector->first_place(at.sequence, at.head / heads_of_list, at.row / tokens) + at.row % tokens;
  }
  index_t query(attending_place const& at) const { return selector->query_place(at.position - behind); }
};

/// Throws argument_error where a rotary policy among the options has positions of its own, or more channels than a row.
template <class... Options>
void check_landmark_rotary(index_t sequences, index_t dimension, Options const&... options) {
  if constexpr (has_kind<option::position, Options...>) {
    absent const none;
    auto const& position = find_option<option::position>(none, options...);
    if (position.moved()) fail("rotary", "expected the positions of the text, got positions of its own");
    position.check_keys(sequences, 0, {0, 0}, dimension);
  }
}

/// Attends from some of the queries to what was chosen for them.
template <Element T, class Cache, Element S, class Position, class E>
void attend_to_landmarks(tensor_view<T const, 4> const& query, Cache const& cache,
                         systems::landmark_selector<S> const& selector, tensor_view<T, 4> const& output, index_t behind,
                         Position const& position, accumulation_t<T> factor, E& executor) {
  selected_rows const rows(cache, selector.lists());
  auto problem = call::cache_problem<T>(query, rows, output);
  scratch memory;
  auto const run = [&](auto const&... options) {
    auto plan = call::plan_on_cache<call::decode_options>(problem, rows, padded_keys(call::lengths_in(rows, 0, memory)),
                                                          scale(factor), executor, options...);
    problem.group_rows = selector.block_tokens();
    engine::run_split(problem, rows, plan.policies(), plan.executor);
  };
  auto const run_masked = [&](auto const&... options) {
    // Of several queries, each sees the own block up to itself.
    if (query.extent(2) > 1)
      run(causal{}, options...);
    else
      run(options...);
  };
  if constexpr (std::same_as<Position, absent>)
    run_masked();
  else
    run_masked(rotary_places(
        position,
        landmark_places<S>{&selector,
                           std::max<index_t>(rows.key_heads() / std::max<index_t>(selector.lists().heads(), 1), 1),
                           behind}));
}

}  // namespace detail

namespace systems {

/// Attends from query [sequence, query head, query, key dimension], the last tokens of a cache, to the chosen blocks,
/// and writes output [sequence, query head, query, value dimension]. All queries of a sequence are in its last block.
/// Options: scale (1/sqrt(key dimension) unless given), rotary and executor.
///
/// Throws argument_error, before the output is written, where shapes or an option do not fit, or where the selector was
/// not told of all tokens.
///
///     landmark_selector<float> selector(shape, 32, 4096, 4, 51);
///     selector.update(cache);
///     landmark_attention(q, cache, selector, o, rotary(rotary_frequencies(128)));
template <TensorArgument Query, KeyValueSource Cache, Element S, TensorArgument Output, class... Options>
void landmark_attention(Query const& query, Cache const& cache, landmark_selector<S>& selector, Output&& output,
                        Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  call::allows<option::scale, option::position, option::executor>::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  call::cache_problem<T>(q, cache, o);
  detail::check_apart("output", o, "query", q);
  detail::absent const none;
  auto const& position = detail::find_option<option::position>(none, options...);
  detail::check_landmark_rotary(q.extent(0), q.extent(3), options...);
  auto& executor = call::executor_of(options...);
  A const factor = detail::scale_or<A>(detail::usual_scale(q.extent(3)), options...);
  selector.check(q, cache);
  index_t const queries = q.extent(2), together = selector.sharing().queries ? queries : 1;
  for (index_t first = 0; first < queries; first += together) {
    index_t const last = first + together, behind = queries - last;
    selector.choose(q, cache, first, last, position, factor, executor);
    detail::attend_to_landmarks<T>(detail::part(q, 2, first, together), cache, selector,
                                   detail::part(o, 2, first, together), behind, position, factor, executor);
  }
}

/// Appends `key` and `value`, not rotated, to all sequences of `cache`, and attends from `query`, a block at a time,
/// with the shapes of cached_attention; the selector is told. Queries that share a choice are those of a block. Options
/// are those of landmark_attention.
///
/// Throws argument_error where shapes, strides, memory or an option do not fit, or where the cache or the selector has
/// no room; nothing is written then, and the cache is as it was.
///
///     landmark_selector<float> selector(shape, 32, 4096, 4, 51);
///     contiguous_cache<float> empty(shape, 4096);
///     landmark_prefill(empty, selector, q, k, v, o, rotary(rotary_frequencies(128)));
template <class Cache, Element S, TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output,
          class... Options>
  requires KeyValueSource<std::remove_const_t<Cache>>
void landmark_prefill(Cache& cache, landmark_selector<S>& selector, Query const& query, Key const& key,
                      Value const& value, Output&& output, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  call::allows<option::scale, option::position, option::executor>::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  index_t const tokens = q.extent(2), block = selector.block_tokens();
  detail::absent const none;
  auto& executor = call::executor_of(options...);
  detail::check_landmark_rotary(q.extent(0), q.extent(3), options...);
  call::plan_new_tokens<T>(cache, q, k, v, o, tokens, none, options...);
  selector.check(detail::part(q, 2, 0, std::min<index_t>(tokens, 1)), cache);
  selector.check_room(cache, tokens);
  for (index_t first = 0; first < tokens;) {
    index_t count = tokens - first;
    for (index_t s = 0; s < cache.sequences(); ++s) count = std::min(count, block - cache.size(s) % block);
    auto const part = [&](auto const& whole) { return detail::part(whole, 2, first, count); };
    cache.append(part(k), part(v));
    selector.update(cache, executor);
    landmark_attention(part(q), cache, selector, part(o), options...);
    first += count;
  }
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
