// SPDX-License-Identifier: BSD-3-Clause
// Log-normal features, exp(alpha q) and exp(beta k) element by element, divided by their sum of keys:
//
//   o_i = sum_j (exp(alpha q_i) . exp(beta k_j)) v_j / sum_j exp(alpha q_i) . exp(beta k_j)
//
// For normal queries and keys the logarithm of such a weight is nearly normal, as that of a softmax weight is. Alpha
// and beta are chosen so that the two have the same variance: with deviations s_q and s_k of the elements of queries
// and keys, and the constants a and b of the line that the variance of the log-normal weights follows,
//
//   t^2 = (s_q^2 s_k^2 - b) / a       alpha = t / (sqrt(2) s_q)       beta = t / (sqrt(2) s_k)
//
// No exponential overflows: time_softmax.hpp.
//
// Yury Nahshan, Joseph Kampeas, Emir Haleva: Linear Log-Normal Attention with Unbiased Concentration, 2024.
#pragma once

#include "time_softmax.hpp"

namespace attend::inline ATTEND_TARGET {

namespace linear {

/// phi(x) = factor * x.
class multiplied_features {
 public:
  using option_kind = option::features;

  constexpr explicit multiplied_features(double factor) : factor_(factor) {}

  index_t features(index_t dimension) const { return dimension; }
  void check(extend::state_shape const&) const { detail::check_finite("multiplied_features", factor_); }
  template <class A>
  void fill(extend::token_rows<A> const& rows, A* to, index_t stride) const {
    elementwise_features([factor = static_cast<A>(factor_)](auto const& x) {
      return x * std::remove_cvref_t<decltype(x)>(factor);
    }).fill(rows, to, stride);
  }

 private:
  double factor_;
};

/// Maps queries by exp(alpha q) and keys by exp(beta k), divided by their sum of keys.
///
///     linear_attention(q, k, v, o, causal{}, log_normal_features(2., 2.));
struct log_normal_features : time_softmax<multiplied_features, multiplied_features, time_weights::by_sum> {
  double alpha, beta;

  explicit log_normal_features(double a = 1, double b = 1)
      : time_softmax(multiplied_features(b), multiplied_features(a)), alpha(a), beta(b) {}

  /// Finds alpha and beta for the deviations of queries and keys, with the line's slope a and offset b.
  static log_normal_features matching(double query_deviation, double key_deviation, double a, double b) {
    extend::arithmetic_mode const arithmetic;
    double const square = (query_deviation * query_deviation * key_deviation * key_deviation - b) / a;
    if (!(query_deviation > 0 && key_deviation > 0 && square >= 0 && std::isfinite(square)))
      extend::fail("log_normal_features", "expected positive deviations whose product's square is on the line, got ",
                   query_deviation, " and ", key_deviation, " for slope ", a, " and offset ", b);
    double const t = std::sqrt(square / 2);
    return log_normal_features(t / query_deviation, t / key_deviation);
  }
};

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
