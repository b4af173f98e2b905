// SPDX-License-Identifier: BSD-3-Clause
// A polynomial in a vector, from its coefficients in ascending order, by Horner's rule.
#pragma once

#include <cstddef>

#include "vector.hpp"

namespace attend::inline ATTEND_TARGET::simd {

/// factor * sum_i coefficients[i] x^i. The factor costs nothing: it goes into the coefficients.
template <class T, std::size_t Count>
ATTEND_INLINE vector<T> polynomial(T const (&coefficients)[Count], vector<T> const& x, T factor = T(1)) {
  vector<T> sum(factor * coefficients[Count - 1]);
  ATTEND_UNROLL for (std::size_t i = Count - 1; i > 0; --i) {
    sum = fused_multiply_add(sum, x, vector<T>(factor * coefficients[i - 1]));
  }
  return sum;
}

}  // namespace attend::inline ATTEND_TARGET::simd
