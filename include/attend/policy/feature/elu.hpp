// SPDX-License-Identifier: BSD-3-Clause
// phi(x) = elu(x) + 1, element by element: x + 1 where x > 0, exp(x) elsewhere.
//
// Angelos Katharopoulos, Apoorv Vyas, Nikolaos Pappas, Francois Fleuret: Transformers are RNNs: Fast Autoregressive
// Transformers with Linear Attention, 2020.
#pragma once

#include "feature.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {
struct elu_and_one {
  template <class Vector>
  ATTEND_INLINE Vector operator()(Vector const& x) const {
    using A = typename Vector::value_type;
    Vector const zero(A(0));
    return simd::select(x > zero, x + Vector(A(1)), simd::exp<A>(x));
  }
};
struct elu_slope {
  template <class Vector>
  ATTEND_INLINE Vector operator()(Vector const& x) const {
    using A = typename Vector::value_type;
    return simd::select(x > Vector(A(0)), Vector(A(1)), simd::exp<A>(x));
  }
};
}  // namespace detail

namespace linear {

/// Maps queries and keys by elu(x) + 1.
///
///     linear_attention(q, k, v, o, causal{}, elu_features{}, key_sum{});
struct elu_features : elementwise_features<detail::elu_and_one, detail::elu_slope> {
  constexpr elu_features() : elementwise_features(detail::elu_and_one{}) {}
};

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
