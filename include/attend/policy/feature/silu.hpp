// SPDX-License-Identifier: BSD-3-Clause
// phi(x) = x / (1 + exp(-x)), element by element: the activation of query and key in Zhen Qin et al.: TransNormerLLM: A
// Faster and Better Large Language Model with Improved TransNormer, 2023.
#pragma once

#include "feature.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {
struct silu_of {
  template <class Vector>
  ATTEND_INLINE Vector operator()(Vector const& x) const {
    return x * simd::sigmoid<typename Vector::value_type>(x);
  }
};
struct silu_slope {
  template <class Vector>
  ATTEND_INLINE Vector operator()(Vector const& x) const {
    using A = typename Vector::value_type;
    Vector const s = simd::sigmoid<A>(x);
    return s * (Vector(A(1)) + x * (Vector(A(1)) - s));
  }
};
}  // namespace detail

namespace linear {

/// Maps queries and keys by x / (1 + exp(-x)).
///
///     linear_attention(q, k, v, o, causal{}, silu_features{}, joined_rms_norm{});
struct silu_features : elementwise_features<detail::silu_of, detail::silu_slope> {
  constexpr silu_features() : elementwise_features(detail::silu_of{}) {}
};

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
