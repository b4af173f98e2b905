// SPDX-License-Identifier: BSD-3-Clause
// A mask's lanes as the bits of an integer: lane l is bit l. Loops over the lanes that are set then take one step each.
#pragma once

#include <cstdint>

#include "vector.hpp"

namespace attend::inline ATTEND_TARGET::simd {

template <class T>
ATTEND_INLINE std::uint32_t lane_bits(vector_mask<T> const& mask) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return std::bit_cast<__mmask16>(mask);
  else
    return std::bit_cast<__mmask8>(mask);
#elif defined(__AVX__)
  if constexpr (sizeof(T) == 4)
    return static_cast<std::uint32_t>(_mm256_movemask_ps(std::bit_cast<__m256>(mask)));
  else
    return static_cast<std::uint32_t>(_mm256_movemask_pd(std::bit_cast<__m256d>(mask)));
#else
  bool lanes[width<T>];
  mask.store_unaligned(lanes);
  std::uint32_t bits = 0;
  for (int lane = 0; lane < width<T>; ++lane) bits |= static_cast<std::uint32_t>(lanes[lane]) << lane;
  return bits;
#endif
}

}  // namespace attend::inline ATTEND_TARGET::simd
