// SPDX-License-Identifier: BSD-3-Clause
// RazorAttention: heads that look far back keep all tokens; the others keep sinks, a window, and one compensation token
// that stands for the N tokens between them.
//
//   o_i = (N exp(s q_i . k^) v^ + sum_j exp(s q_i . k_j) v_j) / (N exp(s q_i . k^) + sum_j exp(s q_i . k_j))
//
// with j over the tokens that are kept for query i, and k^, v^ the means of those that are not (cache/compensated.hpp).
// So N enters as ln N on the logit of the compensation token, and the two parts are merged by log-sum-exp.
//
//   razor_attention   appends tokens, which attend to what is kept for them: a decoding step, or a chunk
//   razor_prefill     a whole prompt attends to all of itself, and is dropped afterwards, as in the paper
//
//   shapes as for cached_attention; the cache is a head_policy_cache whose streaming heads are in a compensated_cache,
//   or a compensated_cache alone
//
// Cost: that of the kept tokens, and 2 * (key dimension + value dimension) operations for each query of a streaming
// head; of a prefill that of causal attention. Which heads look far back is found out beforehand (retrieval_heads.hpp).
//
// Hanlin Tang et al.: RazorAttention: Efficient KV Cache Compression Through Retrieval Heads, 2024.
#pragma once

#include "../../cache/compensated.hpp"
#include "../../cache/head_policy.hpp"
#include "../../core/head_loop.hpp"
#include "../../policy/score/scale.hpp"
#include "../../simd/dot.hpp"
#include "cached_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Adds the compensation tokens to what some queries, those that were appended last, saw otherwise.
template <Element T, class Cache, class E>
void add_compensation(Cache const& cache, tensor_view<T const, 4> const& query, accumulation_t<T> scale,
                      tensor_view<T, 4> const& output, tensor_view<accumulation_t<T>, 3> const& log_sum_exp,
                      E& executor) {
  using A = accumulation_t<T>;
  index_t const heads = cache.key_value_heads(), queries = query.extent(2), dimension = query.extent(3);
  index_t const group = heads > 0 ? query.extent(1) / heads : 0, value_dimension = output.extent(3);
  loop_cost const of_head = loop_cost::of(4 * group * queries * (dimension + value_dimension));
  for_heads(executor, cache.sequences(), heads, of_head, [&](index_t sequence, index_t key_head) {
    auto const [store, number] = cache.compensated(key_head);
    if (!store) return;
    scratch memory;
    typename std::remove_cvref_t<decltype(*store)>::token compensation(*store, sequence, number, memory);
    T* const value = memory.allocate<T>(value_dimension);
    for (index_t i = 0; i < queries; ++i) {
      compensation.move_to(cache.size(sequence) - queries + i);
      if (compensation.count() == 0) continue;
      A const raise_by = std::log(static_cast<A>(compensation.count()));
      convert_row(compensation.value(), value_dimension, value);
      for (index_t head = key_head * group; head < (key_head + 1) * group; ++head) {
        A& seen = log_sum_exp(sequence, head, i);
        T* const to = &output(sequence, head, i, 0);
        A factor[2] = {seen, scale * simd::dot(&query(sequence, head, i, 0), compensation.key(), dimension) + raise_by};
        seen = engine::merge_factors(factor, 2);
        engine::merge_rows(factor, 2, [&](index_t part) { return part == 0 ? to : value; }, value_dimension, to);
      }
    }
  });
}

}  // namespace detail

namespace systems {

/// Appends `key` and `value` to all sequences of `cache`, and attends from `query`, with the shapes of
/// cached_attention. Options: scale (1/sqrt(key dimension) unless given), log_sum_exp and executor.
///
/// Throws argument_error where shapes, strides, memory or an option do not fit, or where the cache has no room; nothing
/// is written then, and the cache is as it was.
///
///     compensated_cache<float> kept(shape, {4, 4000}, 64);  // sinks and window, tokens at a time
///     razor_attention(kept, q, k, v, o);
template <class Cache, TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output,
          class... Options>
  requires KeyValueSource<std::remove_const_t<Cache>>
void razor_attention(Cache& cache, Query const& query, Key const& key, Value const& value, Output&& output,
                     Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  call::allows<option::scale, option::log_sum_exp, option::executor>::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  index_t const tokens = q.extent(2), group_size = call::tokens_per_append(cache, tokens);

  detail::absent none;
  auto& executor = call::executor_of(options...);
  A const factor = detail::scale_or<A>(detail::usual_scale(q.extent(3)), options...);

  call::plan_new_tokens<T>(cache, q, k, v, o, group_size, none, options...);
  scratch memory;
  tensor_view<A, 3> const all = detail::rows_of_log_sum_exp<A>(memory, q, options...);
  for (index_t first = 0; first < tokens; first += group_size) {
    index_t const count = std::min(group_size, tokens - first);
    auto const part = [&](auto const& whole) { return detail::part(whole, 2, first, count); };
    tensor_view<A, 3> const seen(all.data() + first * all.stride(2), {q.extent(0), q.extent(1), count}, all.strides());
    cached_attention(cache, part(q), part(k), part(v), part(o), scale(factor), log_sum_exp(seen), executor);
    detail::add_compensation<T>(cache, part(q), factor, part(o), seen, executor);
  }
}

/// Attends from the tokens of a whole prompt to all of them, causally, and appends it to a cache without tokens, which
/// drops what it does not keep. Shapes and options are those of razor_attention.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or where
/// the cache has tokens or no room.
///
///     compensated_cache<float> kept(shape, {4, 4000}, 64);
///     razor_prefill(kept, q, k, v, o);
template <class Cache, TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output,
          class... Options>
  requires KeyValueSource<std::remove_const_t<Cache>>
void razor_prefill(Cache& cache, Query const& query, Key const& key, Value const& value, Output&& output,
                   Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  call::allows<option::scale, option::log_sum_exp, option::executor>::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  index_t const tokens = q.extent(2), group_size = call::tokens_per_append(cache, tokens);
  detail::absent none;
  call::plan_new_tokens<T>(cache, q, k, v, o, group_size, none, options...);
  for (index_t s = 0; s < cache.sequences(); ++s)
    detail::check_extent("cache", "tokens", cache.size(s), 0, "the prompt is to be its first");
  softmax_attention(q, k, v, o, causal{}, options...);
  for (index_t first = 0; first < tokens; first += group_size) {
    index_t const count = std::min(group_size, tokens - first);
    cache.append(detail::part(k, 2, first, count), detail::part(v, 2, first, count));
  }
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
