// SPDX-License-Identifier: BSD-3-Clause
// Gains of pairs: what multiplies the weight of a query and a key after the normalizer has spoken, with nothing
// normalized again: output = sum_j p_ij g_ij v_j.
//
//   gaussian_gain{centres, deviation}   g_ij = exp(-(j - c_i)^2 / (2 deviation^2)), c_i the query's centre
//
// Local attention (Minh-Thang Luong, Hieu Pham, Christopher Manning: Effective Approaches to Attention-based Neural
// Machine Translation, 2015) is centred_window{centres, D} with gaussian_gain{centres, D / 2}.
#pragma once

#include <cmath>
#include <limits>

#include "../core/options.hpp"
#include "../simd/math.hpp"
#include "row_tensor.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Multiplies the weight of a pair by a Gaussian of the key's distance, in tokens, from the query's centre. A call
/// throws argument_error where the centres do not fit its shape or the deviation is not above 0.
///
///     softmax_attention(q, k, v, o, centred_window(centres, 10.), gaussian_gain(centres, 5.));
template <class Value>
class gaussian_gain {
 public:
  using option_kind = option::pair_gain;

  /// Centres [batch, query head, query]; leading axes may be left out, any axis may be 1.
  template <TensorArgument Tensor>
  gaussian_gain(Tensor const& centres, double deviation)
      : centres_(detail::row_tensor<Value>::of_queries(centres)), deviation_(deviation) {}

  void check(extend::problem_shape const& shape) const {
    centres_.check("gaussian_gain", shape);
    if (!(deviation_ > 0)) extend::fail("gaussian_gain", "expected a deviation above 0, got ", deviation_);
  }
  template <class T>
  auto bind(extend::tile_rows<T> const& rows, extend::key_range) const {
    // exp2(-(factor * distance)^2): the factor is finite for any deviation, so that a distance of 0 has gain 1.
    double const most = static_cast<double>(std::numeric_limits<T>::max());
    T const factor = static_cast<T>(std::min(std::sqrt(extend::log2_e / 2) / deviation_, most));
    return [centre = extend::lane_values<T>([&](int lane) { return centres_.at(rows, lane); }),
            factor](extend::score_place<T> const& place) {
      simd::vector<T> const x = (place.key_position - centre.at(place.lane)) * simd::vector<T>(factor);
      return simd::exp2<T>(-(x * x));
    };
  }

 private:
  detail::row_tensor<Value> centres_;
  double deviation_;
};
template <class Tensor>
gaussian_gain(Tensor const&, double) -> gaussian_gain<element_of_t<Tensor const>>;

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
