// SPDX-License-Identifier: BSD-3-Clause
// Softmax, and what a normalizer is: what turns the logits of a row into weights.
//
//   p_j = exp(s_j - m) / l,   m = max_j s_j,   l = sum_j exp(s_j - m)          output = sum_j p_j v_j
//
// Where the output is finite, so are the sums on the way to it, however large values are.
//
// A normalizer answers, for the logits s of a vector of queries and one key:
//   check(shape)                throws argument_error for what does not fit
//   keeps_maximum               whether the row's maximum is needed: then a weight is relative to it, and output
//                               and sum are rescaled when it grows
//   weight<T>(s, maximum)       the weight before normalization
//   has_weight_sum              whether something is summed up over the keys, which then is
//   weight_sum<T>(s, weight)    of each
//   factor<T>(sum)              what the output is multiplied by at the end
// and may answer
//   weight_to_round(s, factor, maximum)
//                               the weight of the logit factor * s, in float, where it will be rounded to bfloat16
// A hidden key has s = -inf and must get weight 0 and add 0 to the sum.
#pragma once

#include "../../core/options.hpp"
#include "../../simd/math.hpp"
#include "../tile.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

template <class N>
concept HasKeepsMaximum = requires {
  { N::keeps_maximum } -> std::convertible_to<bool>;
};
template <class N>
concept SaysWeightSum = requires {
  { N::has_weight_sum } -> std::convertible_to<bool>;
};
template <class N, class T>
concept HasWeight = requires(N const& normalizer, simd::vector<T> const& s) {
  { normalizer.template weight<T>(s, s) } -> std::convertible_to<simd::vector<T>>;
};
template <class N, class T>
concept HasWeightSum = !N::has_weight_sum || requires(N const& normalizer, simd::vector<T> const& s) {
  { normalizer.template weight_sum<T>(s, s) } -> std::convertible_to<simd::vector<T>>;
};
template <class N, class T>
concept HasFactor = requires(N const& normalizer, T sum) {
  { normalizer.template factor<T>(sum) } -> std::convertible_to<T>;
};

/// Whether a normalizer has all members, for logits of type T; an error names each one that is missing.
template <class N, class T>
consteval bool has_normalizer_members() {
  static_assert(HasCheck<N, extend::problem_shape>, "attend: a normalizer needs check(shape) const");
  static_assert(HasKeepsMaximum<N>, "attend: a normalizer needs keeps_maximum, a static constexpr bool");
  static_assert(SaysWeightSum<N>, "attend: a normalizer needs has_weight_sum, a static constexpr bool");
  static_assert(HasWeight<N, T>,
                "attend: a normalizer needs weight<T>(s, maximum) const, which gives a vector of weights");
  static_assert(
      HasWeightSum<N, T>,
      "attend: a normalizer that has_weight_sum needs weight_sum<T>(s, weight) const, which gives what is summed up");
  static_assert(HasFactor<N, T>, "attend: a normalizer needs factor<T>(sum) const, which gives a number");
  return true;
}

}  // namespace detail

namespace extend {

/// A normalizer, for logits of type T.
template <class N, class T = float>
concept Normalizer = detail::has_kind<option::normalizer, N> && detail::HasCheck<N, extend::problem_shape> &&
                     detail::HasKeepsMaximum<N> && detail::SaysWeightSum<N> && detail::HasWeight<N, T> &&
                     detail::HasWeightSum<N, T> && detail::HasFactor<N, T>;

}  // namespace extend

namespace detail {

/// Weights are multiplied by 2^-16, which is exact: they may reach e^2 (engine/softmax/tile.hpp), and even so the sum
/// of eight thousand of them, each times the largest finite number, is finite; of fifty thousand if none exceeds 1.
/// Products of small values become 0 earlier for it, those with values of 1e-30 (float) at weights of 1e-3: so it is no
/// smaller.
inline constexpr int weight_halvings = 16;

/// The weight of a logit at the maximum.
template <class T>
inline constexpr T weight_unit = simd::detail::half_to<T>(weight_halvings);

/// exp(s - m) in that unit. The difference comes first, where it is exact for neighbours: of two products with log2(e),
/// rounded apart, nothing may be left when logits are large (masks made of the least finite number).
template <class T>
ATTEND_INLINE simd::vector<T> softmax_weight(simd::vector<T> const& s, simd::vector<T> const& maximum) {
  return simd::halved_exp2<weight_halvings>((s - maximum) * simd::vector<T>(T(log2_e)));
}

/// exp(factor * s - m) in that unit, with a relative error of 3e-6 beside that of the difference: a tenth of a percent
/// of what rounding to bfloat16 changes.
ATTEND_INLINE simd::vector<float> softmax_weight_to_round(simd::vector<float> const& s,
                                                          simd::vector<float> const& factor,
                                                          simd::vector<float> const& maximum) {
  return simd::coarse_exp2<weight_halvings>(simd::fused_multiply_add(s, factor, -maximum) *
                                            simd::vector<float>(float(log2_e)));
}

}  // namespace detail

namespace options {

/// Makes softmax weights. It is the default.
///
///     softmax_attention(q, k, v, o, softmax{});
struct softmax {
  using option_kind = option::normalizer;
  static constexpr bool keeps_maximum = true;
  static constexpr bool has_weight_sum = true;

  void check(extend::problem_shape const&) const {}
  template <class T>
  ATTEND_INLINE simd::vector<T> weight(simd::vector<T> const& s, simd::vector<T> const& maximum) const {
    return detail::softmax_weight<T>(s, maximum);
  }
  ATTEND_INLINE simd::vector<float> weight_to_round(simd::vector<float> const& s, simd::vector<float> const& factor,
                                                    simd::vector<float> const& maximum) const {
    return detail::softmax_weight_to_round(s, factor, maximum);
  }
  template <class T>
  ATTEND_INLINE simd::vector<T> weight_sum(simd::vector<T> const&, simd::vector<T> const& weight) const {
    return weight;
  }
  template <class T>
  T factor(T weight_sum) const {
    return weight_sum == 0 ? T(0) : 1 / weight_sum;
  }
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
