// SPDX-License-Identifier: BSD-3-Clause
// Fastmax, factorizable attention: weights that are a Taylor polynomial of the exponential, of standardized queries and
// keys.
//
//   o_i = sum_j f(q'_i . k'_j) v_j / sum_j f(q'_i . k'_j)      x' = (x - mean(x)) / deviation(x), row by row
//   f(z) = 1 + z + z^2 / 2      or 1 + z for order 1
//
// The polynomial of order 2 is at least 1/2, so the denominator is safe. That of order 1 may reach 0 or below; then so
// does the denominator, and the output is as large as that makes it, or 0 where the denominator is.
//
// Shapes, cost and options are those of linear_attention, causal{} among them, with 1 + d + d (d + 1) / 2 features for
// d dimensions, or 1 + d: every pair counts, and no matrix of pairs is formed.
//
// Armin Gerami, Monte Hoover, Pranav Dulepet, Ramani Duraiswami: FAST: Factorizable Attention for Speeding up
// Transformers, 2024.
#pragma once

#include "../../policy/feature/standardized.hpp"
#include "../../policy/feature/taylor.hpp"
#include "linear_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Names the order of the polynomial: 1 + z, or 1 + z + z^2 / 2.
enum class fastmax_order { first = 1, second = 2 };

/// Attends with polynomial weights. Shapes, options and errors are those of linear_attention, but features and
/// normalizer are not options; the order comes after the output.
///
///     fastmax_attention(q, k, v, o, fastmax_order::second, causal{});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void fastmax_attention(Query const& query, Key const& key, Value const& value, Output&& output, fastmax_order order,
                       Options&&... options) {
  taylor_features const polynomial(order == fastmax_order::first ? taylor_form::order_1 : taylor_form::packed, 1.0);
  linear_attention(query, key, value, output, standardized(polynomial), key_sum{0}, std::forward<Options>(options)...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
