// SPDX-License-Identifier: BSD-3-Clause
// cosFormer: linear attention whose weights fall with the distance, as a cosine.
//
//   w_ij = relu(q_i) . relu(k_j) cos(pi (i - j) / 2M)      o_i = sum_j w_ij v_j / max(sum_j w_ij, 0.001)
//
// The cosine of a difference is a product of features [relu(x) cos(pi t / 2M), relu(x) sin(pi t / 2M)] at each position
// t. The horizon M is at least the number of positions, so that no weight is negative. i and j are positions: the last
// query stands at the last key.
//
// Shapes, cost and options are those of linear_attention, causal{} among them, with twice as many features as
// dimensions. A sequence that comes in pieces has one horizon, and each piece says at which position its first key
// stands.
//
// Zhen Qin, Weixuan Sun, Hui Deng, Dongxu Li, Yunshen Wei, Baohong Lv, Junjie Yan, Lingpeng Kong, Yiran Zhong:
// cosFormer: Rethinking Softmax in Attention, 2022. mixFormer, which chooses this or softmax_attention for each layer:
// Zexiang Liu et al.: Neural Architecture Search on Efficient Transformers and Beyond, 2022, from whose code the bound
// of the denominator is.
#pragma once

#include <numbers>

#include "../../policy/feature/relu.hpp"
#include "../../policy/feature/rotation.hpp"
#include "linear_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Divides by the sum of keys, or by a bound above 0 where the sum is less: o_i = x_i / max(scale phi(q_i) . z_i,
/// least) with x_i = scale phi(q_i)^T S_i.
struct bounded_key_sum {
  using option_kind = option::state_normalizer;
  static constexpr bool sums_keys = true, whole_rows = false;
  double least = 1e-3;

  void check() const {
    detail::check_finite("bounded_key_sum", least);
    if (least <= 0) fail("bounded_key_sum", "expected a bound above 0, got ", least);
  }
  template <class A>
  A factor(A sum) const {
    return 1 / std::max(sum, static_cast<A>(least));
  }
};

/// Holds the horizon M of a cosFormer call in tokens, and the position at which the first key stands.
struct cosine_horizon {
  index_t positions, first_position = 0;
};

/// Attends with weights that fall as a cosine. Shapes and options are those of linear_attention but for features and
/// normalizer; the horizon comes after the output.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or where
/// the horizon is shorter than the positions that are used.
///
///     cosformer_attention(q, k, v, o, cosine_horizon{.positions = 4096}, causal{});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void cosformer_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                         cosine_horizon horizon, Options&&... options) {
  arithmetic_mode const arithmetic;
  index_t const keys = raise<4>(view_of(key)).extent(2), queries = raise<4>(view_of(query)).extent(2);
  if (horizon.first_position < 0 || horizon.first_position >= token_limit)
    fail("cosine_horizon", "expected a first position from 0 to ", token_limit - 1, ", got ", horizon.first_position);
  // More tokens than the limit are refused with the tensors.
  index_t const tokens = std::clamp<index_t>(std::max(keys, queries), 0, token_limit);
  index_t const least = std::max<index_t>(horizon.first_position + tokens, 1);
  if (horizon.positions < least)
    fail("cosine_horizon", "expected at least ", least, " positions (as tokens), got ", horizon.positions);
  double const angle[] = {std::numbers::pi / (2 * static_cast<double>(horizon.positions))};
  linear_attention(query, key, value, output,
                   rotated(relu_features{}, tensor_view<double const, 1>(angle, {1}), horizon.first_position),
                   bounded_key_sum{}, std::forward<Options>(options)...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
