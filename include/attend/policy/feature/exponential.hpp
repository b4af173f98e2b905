// SPDX-License-Identifier: BSD-3-Clause
// phi(x) = exp(x), element by element. It overflows where x does; log_normal.hpp has the same features divided by what
// they sum to, which do not.
#pragma once

#include "feature.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {
struct exponential_of {
  template <class Vector>
  ATTEND_INLINE Vector operator()(Vector const& x) const {
    return simd::exp<typename Vector::value_type>(x);
  }
};
struct exponential_slope {
  template <class Vector>
  ATTEND_INLINE Vector operator()(Vector const& x) const {
    return simd::exp<typename Vector::value_type>(x);
  }
};
}  // namespace detail

namespace linear {

/// Maps queries and keys by exp(x).
///
///     linear_attention(q, k, v, o, exponential_features{}, key_sum{});
struct exponential_features : elementwise_features<detail::exponential_of, detail::exponential_slope> {
  constexpr exponential_features() : elementwise_features(detail::exponential_of{}) {}
};

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
