// SPDX-License-Identifier: BSD-3-Clause
// Centred windows: query i sees the keys within `reach` of a centre of its own, a real number: |j - c_i| <= reach.
//
// Minh-Thang Luong, Hieu Pham, Christopher Manning: Effective Approaches to Attention-based Neural Machine Translation,
// 2015 (local-m: c_i = i; local-p: c_i = keys * sigmoid(...), predicted by the caller). With gaussian_gain (policy/
// pair_gain.hpp) beside it, it is their local attention.
#pragma once

#include <cmath>

#include "../row_tensor.hpp"
#include "interval_mask.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Shows each query the keys within a reach, in tokens, of a centre of its own. A call throws argument_error where the
/// centres do not fit its shape or the reach is negative.
///
///     softmax_attention(q, k, v, o, centred_window(centres, 10.), gaussian_gain(centres, 5.));  // Luong
template <class Value>
class centred_window : public extend::interval_mask<centred_window<Value>> {
 public:
  /// Centres [batch, query head, query]; leading axes may be left out, any axis may be 1. NaN sees nothing, and an
  /// infinite reach sees all keys.
  template <TensorArgument Tensor>
  centred_window(Tensor const& centres, double reach)
      : centres_(detail::row_tensor<Value>::of_queries(centres)), reach_(reach) {}

  void check(extend::problem_shape const& shape) const {
    centres_.check("centred_window", shape);
    if (!(reach_ >= 0)) extend::fail("centred_window", "expected a reach of at least 0, got ", reach_);
  }
  template <class T>
  extend::key_range interval(extend::tile_rows<T> const& rows, int lane) const {
    double const centre = static_cast<double>(centres_.at(rows, lane));
    if (std::isnan(centre)) return {};
    if (std::isinf(reach_)) return {0, rows.keys};
    return {nearest_index(std::ceil(centre - reach_)), nearest_index(std::floor(centre + reach_) + 1)};
  }

 private:
  static index_t nearest_index(double x) {
    constexpr auto limit = static_cast<double>(extend::token_limit);
    return static_cast<index_t>(std::clamp(x, -limit, limit));
  }

  detail::row_tensor<Value> centres_;
  double reach_;
};
template <class Tensor>
centred_window(Tensor const&, double) -> centred_window<element_of_t<Tensor const>>;

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
