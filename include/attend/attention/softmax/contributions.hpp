// SPDX-License-Identifier: BSD-3-Clause
// What each head and each key contributes to the output of one query: the terms of which its attention is the sum.
//
//   c_hj = p_hj v_hj                  sum_j c_hj is the head's output
//   c_hj W_h                          its part of the block's output, where W_h [value dimension, channel] is the rows
//   of
//                                     the output projection that belong to head h: the caller's product
//
//   query [batch, query head, 1, key dimension]    key [batch, key head, key, key dimension]
//   value [batch, value head, key, value dimension]    c [batch, query head, key, value dimension]
//
// Cost: that of the weights of one query, and of writing c.
//
// Yossi Gandelsman, Alexei A. Efros, Jacob Steinhardt: Interpreting CLIP's Image Representation via Text-Based
// Decomposition, 2024 (the class token's output, by heads and image tokens).
#pragma once

#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Writes the contributions of each head and key to the output of one query, in the accumulation type; shapes stand at
/// the beginning of this file. Options: those of attention_weights.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     head_contributions(q, k, v, features);  // of a q with one token
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Terms, class... Options>
void head_contributions(Query const& query, Key const& key, Value const& value, Terms&& terms, Options&&... options) {
  using namespace detail;
  arithmetic_mode const arithmetic;
  using T = typename call::one_element_type<std::remove_const_t<element_of_t<Query const>>, Key, Value>::type;
  using A = accumulation_t<T>;
  static_assert(std::same_as<element_of_t<Terms>, A>,
                "attend: contributions hold the accumulation type: float, or double for tensors of double");
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<A, 4> const to = raise<4>(view_of(terms));
  problem_shape shape = call::checked_shape<T>(q, k);
  call::check_value<T>(v, shape);
  check_extent("query", "tokens", shape.queries, 1, "one query");
  check_output_view("terms", to);
  check_extent("terms", "batch", to.extent(0), shape.batches, "query");
  check_extent("terms", "heads", to.extent(1), shape.query_heads, "query");
  check_extent("terms", "tokens", to.extent(2), shape.keys, "key");
  check_extent("terms", "head dimension", to.extent(3), shape.value_dimension, "value");
  check_apart("terms", to, "query", q);
  check_apart("terms", to, "key", k);
  check_apart("terms", to, "value", v);

  scratch memory;
  index_t const heads = shape.query_heads, rows = shape.batches * heads, columns = shape.value_dimension;
  tensor_view<A, 4> const weight(memory.allocate<A>(rows * shape.keys), {shape.batches, heads, 1, shape.keys});
  attention_weights(q, k, weight, options...);
  parallel_for(call::executor_of(options...), rows,
               rows * loop_cost::of(0, 2 * shape.keys * columns * index_t{sizeof(A)}), [&](index_t task) {
                 index_t const b = task / heads, h = task % heads;
                 for (index_t j = 0; columns > 0 && j < shape.keys; ++j) {
                   T const* const from = &v(b, h / (heads / shape.value_heads), j, 0);
                   A* const row = &to(b, h, j, 0);
                   A const p = weight(b, h, 0, j);
                   // A hidden key contributes nothing, whatever its value is.
                   for (index_t c = 0; c < columns; ++c) row[c] = p == 0 ? A(0) : p * static_cast<A>(from[c]);
                 }
               });
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
