// SPDX-License-Identifier: BSD-3-Clause
// Rectified features: phi(x) = max(x, 0), element by element. They are what linear attention keeps of the softmax when
// only positive weights are asked for: Zhen Qin et al.: cosFormer: Rethinking Softmax in Attention, 2022; Han Cai et
// al.: EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction, 2023.
#pragma once

#include "feature.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {
struct rectify {
  template <class Vector>
  ATTEND_INLINE Vector operator()(Vector const& x) const {
    return simd::max(Vector(typename Vector::value_type(0)), x);
  }
};
struct rectified_slope {
  template <class Vector>
  ATTEND_INLINE Vector operator()(Vector const& x) const {
    using A = typename Vector::value_type;
    return simd::select(x > Vector(A(0)), Vector(A(1)), Vector(A(0)));
  }
};
}  // namespace detail

namespace linear {

/// Maps queries and keys by max(x, 0).
///
///     linear_attention(q, k, v, o, relu_features{}, key_sum{});
struct relu_features : elementwise_features<detail::rectify, detail::rectified_slope> {
  constexpr relu_features() : elementwise_features(detail::rectify{}) {}
};

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
