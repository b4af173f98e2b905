// SPDX-License-Identifier: BSD-3-Clause
// Sigmoid attention: weights without a sum over the row.
//
//   p_j = 1 / (1 + exp(-(s_j + b))),   b = -ln(keys) unless given          output = sum_j p_j v_j
//
// Jason Ramapuram et al.: Theory, Analysis, and Best Practices for Sigmoid Self-Attention, 2024.
#pragma once

#include <cmath>
#include <optional>

#include "../../core/check.hpp"
#include "softmax.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Makes a weight of each logit alone, without a sum over the row.
///
///     softmax_attention(q, k, v, o, causal{}, sigmoid_weights{});
struct sigmoid_weights {
  using option_kind = option::normalizer;
  static constexpr bool keeps_maximum = false;
  static constexpr bool has_weight_sum = false;

  /// Added to every logit. Without it: -ln of the number of keys of the sequence, hidden ones included.
  std::optional<double> bias;

  constexpr sigmoid_weights() = default;
  constexpr explicit sigmoid_weights(double added) : bias(added) {}

  void check(extend::problem_shape const&) const {
    if (bias) detail::check_finite("sigmoid_weights", *bias);
  }
  sigmoid_weights for_keys(index_t keys) const {
    return sigmoid_weights(bias ? *bias : -std::log(static_cast<double>(std::max<index_t>(keys, 1))));
  }
  template <class T>
  ATTEND_INLINE simd::vector<T> weight(simd::vector<T> const& s, simd::vector<T> const&) const {
    return simd::sigmoid<T>(s + simd::vector<T>(T(*bias)));
  }
  template <class T>
  ATTEND_INLINE simd::vector<T> weight_slope(simd::vector<T> const&, simd::vector<T> const& weight) const {
    return weight * (simd::vector<T>(T(1)) - weight);
  }
  template <class T>
  ATTEND_INLINE simd::vector<T> weight_sum(simd::vector<T> const& s, simd::vector<T> const&) const {
    return s;
  }
  template <class T>
  T factor(T) const {
    return 1;
  }
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
