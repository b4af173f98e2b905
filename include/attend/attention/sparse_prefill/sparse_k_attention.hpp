// SPDX-License-Identifier: BSD-3-Clause
// SparseK attention: keys are chosen once for all queries, by scores that come with them.
//
//   p   = sparse_k(u, k)                       (select/sparse_k.hpp)
//   I   = the k keys with the largest u_j; ties to the lower index
//   o_i = softmax attention of q_i to the keys k_j, j in I, with values p_j v_j
//
//   query, key, value, output   as for softmax_attention
//   scores                      [batch, key head, key], of the accumulation type: a learned row times each token
//
// Scores know nothing of the query: what is found is what they were trained to find.
//
// This is the form without a mask; the causal one is sparse_k_causal_attention.
//
// Cost: sorting the scores, and dense attention to k keys. Memory: the chosen rows, which are gathered once for all
// queries since their values are changed.
//
// Chao Lou, Zixia Jia, Zilong Zheng, Kewei Tu: Sparser is Faster and Less is More: Efficient Sparse Attention for
// Long-Range Transformers, 2024.
#pragma once

#include "../../core/head_loop.hpp"
#include "../../select/sparse_k.hpp"
#include "../../select/top_k.hpp"
#include "../softmax/softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

template <class A>
void check_token_scores(tensor_view<A const, 3> const& scores, view_layout const& output, problem_shape const& shape) {
  check_view("scores", scores);
  check_extent("scores", "batch", scores.extent(0), shape.batches, "key");
  check_extent("scores", "heads", scores.extent(1), shape.key_heads, "key");
  check_extent("scores", "tokens", scores.extent(2), shape.keys, "key");
  check_apart("output", output, "scores", raise<4>(scores));
}

}  // namespace detail

namespace systems {

/// Attends to the `k` keys of largest score; shapes stand at the beginning of this file. A key whose score is -inf or
/// NaN has weight 0 in place of p. Options: scale (1/sqrt(key dimension) unless given), log_sum_exp and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or k is
/// negative.
///
///     sparse_k_attention(q, k, v, o, tokens, 256);
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, TensorArgument Scores,
          class... Options>
void sparse_k_attention(Query const& query, Key const& key, Value const& value, Output&& output, Scores const& scores,
                        index_t k, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  call::allows<option::scale, option::log_sum_exp, option::executor>::check<Options...>();
  static_assert(std::same_as<element_of_t<Scores const>, A>,
                "attend: scores have the accumulation type: float, or double for tensors of double");
  tensor_view<T const, 4> const keys = raise<4>(view_of(key)), values = raise<4>(view_of(value));
  tensor_view<A const, 3> const u = raise<3>(view_of(scores));
  auto const problem = call::tensor_problem<T>(raise<4>(view_of(query)), keys, values, raise<4>(view_of(output)));
  problem_shape const shape = problem.shape;
  detail::check_extent("value", "heads", shape.value_heads, shape.key_heads, "key");
  detail::check_token_scores(u, problem.output, shape);
  // The chosen rows are copies, which softmax_attention cannot tell from those that they are of.
  call::check_memory(problem);
  if (k < 0) fail("k", "expected at least 0, got ", k);
  index_t const most = std::min(k, shape.keys), heads = shape.key_heads;
  scratch memory;
  std::array const rows{shape.batches, heads, most};
  tensor_view<T, 4> const chosen_keys(memory.allocate<T>(rows[0] * rows[1] * most * shape.key_dimension),
                                      {rows[0], rows[1], most, shape.key_dimension});
  tensor_view<T, 4> const chosen_values(memory.allocate<T>(rows[0] * rows[1] * most * shape.value_dimension),
                                        {rows[0], rows[1], most, shape.value_dimension});
  // Scores are ranked twice; chosen rows are read and written.
  index_t const numbers = most * (shape.key_dimension + shape.value_dimension);
  detail::loop_cost const of_head =
      detail::loop_cost::of(100 * shape.keys, 2 * numbers * static_cast<index_t>(sizeof(T)));
  auto& executor = call::executor_of(options...);
  detail::for_heads(executor, shape.batches, heads, of_head, [&](index_t batch, index_t head) {
    if (most == 0) return;
    index_t const first = (batch * heads + head) * most;
    scratch memory_of_head;
    A* const weight = memory_of_head.allocate<A>(shape.keys);
    auto* const score = memory_of_head.allocate<float>(shape.keys);
    auto* const list = memory_of_head.allocate<std::int32_t>(most);
    sparse_k(&u(batch, head, 0), shape.keys, k, weight);
    for (index_t j = 0; j < shape.keys; ++j) score[j] = static_cast<float>(u(batch, head, j));
    top_k(score, shape.keys, most, list);
    for (index_t i = 0; i < most; ++i) {
      std::copy_n(keys.data() + batch * keys.stride(0) + head * keys.stride(1) + list[i] * keys.stride(2),
                  shape.key_dimension, chosen_keys.data() + (first + i) * shape.key_dimension);
      T const* const from =
          values.data() + batch * values.stride(0) + head * values.stride(1) + list[i] * values.stride(2);
      T* const to = chosen_values.data() + (first + i) * shape.value_dimension;
      for (index_t c = 0; c < shape.value_dimension; ++c)
        to[c] = static_cast<T>(static_cast<A>(from[c]) * weight[list[i]]);
    }
  });
  softmax_attention(query, chosen_keys, chosen_values, output, options...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
