// SPDX-License-Identifier: BSD-3-Clause
// Floats as sums of two bfloat16, for a matrix unit (pair_products.hpp) that multiplies what one bfloat16 would round
// too much:
//
//   x ~ high + low      high = bfloat16(x), low = bfloat16(x - high), |error| <= 2^-16 |x|
//
// An infinity, and what rounds to one, has a low part that is no number. Parts below the normal range count as 0, and
// so |error| may be 2^-126.
#pragma once

#include "convert.hpp"
#include "pair_products.hpp"

namespace attend::inline ATTEND_TARGET::simd {

/// Rounds the lanes of two vectors to bfloat16, and stores the second vector's behind the first one's.
ATTEND_INLINE void store_run(std::uint16_t* to, vector<float> const& first, vector<float> const& second) {
#if defined(__AVX512BF16__) && defined(__AVX512F__)
  _mm512_storeu_si512(
      to, std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(static_cast<__m512>(second), static_cast<__m512>(first))));
#else
  detail::store_bits(to, detail::rounded_bits(first) >> 16);
  detail::store_bits(to + width<float>, detail::rounded_bits(second) >> 16);
#endif
}

/// Stores the parts of two vectors: the first one's in the lower halves of pairs.
ATTEND_INLINE void store_pair_parts(vector<float> const& first, vector<float> const& second, pair_bits* high,
                                    pair_bits* low) {
  using bits = detail::lanes::bits32;
  bits pairs, rest;
  detail::round_pairs(first, second, pairs);
  detail::round_pairs(first - std::bit_cast<vector<float>>(bits(pairs << 16)),
                      second - std::bit_cast<vector<float>>(bits(pairs & 0xffff0000u)), rest);
  std::memcpy(high, &pairs, sizeof(pairs));
  std::memcpy(low, &rest, sizeof(rest));
}

/// Stores the parts of two vectors, the second one's behind the first one's.
ATTEND_INLINE void store_run_parts(vector<float> const& first, vector<float> const& second, std::uint16_t* high,
                                   std::uint16_t* low) {
  store_run(high, first, second);
  auto const part = [](std::uint16_t const* from) ATTEND_INLINE_LAMBDA {
    return std::bit_cast<vector<float>>(detail::lanes::bits32(detail::load_bits(from) << 16));
  };
  store_run(low, first - part(high), second - part(high + width<float>));
}

}  // namespace attend::inline ATTEND_TARGET::simd
