// SPDX-License-Identifier: BSD-3-Clause
// ReLU attention: p_j = max(s_j, 0) times one of
//
//   relu_scaling::none      1
//   relu_scaling::count     1 / n, n the number of keys that the row sees (the row's length i under a causal mask)
//   relu_scaling::sum       1 / (sum_j max(s_j, 0) + epsilon)
//
// Tianyu Guo et al.: Active-Dormant Attention Heads: Mechanistically Demystifying Extreme-Token Phenomena in LLMs, 2024
// (none); Mitchell Wortsman et al.: Replacing softmax with ReLU in Vision Transformers, 2023 (count); Wenxuan Zeng et
// al.: MPCViT, 2023 (sum, epsilon 1e-5).
#pragma once

#include "../../core/check.hpp"
#include "softmax.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Says what the positive logits are multiplied by.
enum class relu_scaling { none, count, sum };

/// Makes weights of the positive logits alone.
///
///     softmax_attention(q, k, v, o, causal{}, relu_weights{relu_scaling::count});
struct relu_weights {
  using option_kind = option::normalizer;
  static constexpr bool keeps_maximum = false;
  static constexpr bool has_weight_sum = true;

  relu_scaling scaling = relu_scaling::none;
  double epsilon = 1e-5;

  void check(extend::problem_shape const&) const {
    detail::check_finite("relu_weights (epsilon)", epsilon);
    if (epsilon < 0) extend::fail("relu_weights (epsilon)", "expected at least 0, got ", epsilon);
  }
  /// Says whether weights are divided by a number of their row, and whether that is their sum.
  bool divides() const { return scaling != relu_scaling::none; }
  bool divides_by_sum() const { return scaling == relu_scaling::sum; }
  template <class T>
  ATTEND_INLINE simd::vector<T> weight(simd::vector<T> const& s, simd::vector<T> const&) const {
    return simd::max<T>(simd::vector<T>(T(0)), s);
  }
  template <class T>
  ATTEND_INLINE simd::vector<T> weight_slope(simd::vector<T> const& s, simd::vector<T> const&) const {
    return simd::select(s > simd::vector<T>(T(0)), simd::vector<T>(T(1)), simd::vector<T>(T(0)));
  }
  template <class T>
  ATTEND_INLINE simd::vector<T> weight_sum(simd::vector<T> const& s, simd::vector<T> const& weight) const {
    if (scaling == relu_scaling::sum) return weight;
    return simd::select(s == simd::vector<T>(-extend::infinity<T>), simd::vector<T>(T(0)), simd::vector<T>(T(1)));
  }
  template <class T>
  T factor(T weight_sum) const {
    switch (scaling) {
      case relu_scaling::count:
        return weight_sum == 0 ? T(0) : 1 / weight_sum;
      case relu_scaling::sum:
        return weight_sum == 0 ? T(0) : 1 / (weight_sum + static_cast<T>(epsilon));
      default:
        return 1;
    }
  }
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
