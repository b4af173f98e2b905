// SPDX-License-Identifier: BSD-3-Clause
// The non-approximate attention of "Deconstructing Attention": the weight of a key does not depend on the query at
// hand, but on the key's own.
//
//   z_j = scale * sum_c silu(q_j)_c k_jc      o_t = sum_{j <= t} exp(z_j) v_j / sum_{j <= t} exp(z_j)
//
// Query and key of one token meet, and all outputs are prefixes of one softmax: exact, in one scan, as Aaren's with the
// logits z. Shapes as for softmax_attention, with as many queries as keys; states, scale and options as for
// aaren_attention.
//
// Huiyin Xue, Nafise Sadat Moosavi, Nikolaos Aletras: Deconstructing Attention: Investigating Design Principles for
// Effective Language Modeling, 2025.
#pragma once

#include "aaren_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Attends with element-wise logits of the keys alone. Options: scale, initial_state, final_state, prefix_scan and
/// executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     non_approximate_attention(q, k, v, o);
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void non_approximate_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                               Options&&... options) {
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  engine::state_problem<T> p;
  p.query = raise<4>(view_of(query));
  p.key = raise<4>(view_of(key));
  p.value = raise<4>(view_of(value));
  p.output = raise<4>(view_of(output));
  detail::check_scan_tensors(p);
  detail::check_extent("query", "tokens", p.shape.queries, p.shape.keys, "key");
  auto const write_logits = [&](index_t batch, index_t head, index_t first, index_t count, A scale, A* to) {
    auto const queries = engine::rows_of_head(p.query, batch, head, first);
    auto const keys = engine::rows_of_head(p.key, batch, head * p.shape.key_heads / p.shape.query_heads, first);
    simd::row_sums(
        count, p.shape.key_dimension, scale, to, [&](index_t j) { return queries.row(j); },
        [&](index_t j) { return keys.row(j); },
        [](auto const& sum, auto const& x, auto const& y) {
          return simd::fused_multiply_add(x * simd::sigmoid<A>(x), y, sum);
        });
  };
  detail::run_softmax_scan(p, write_logits, options...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
