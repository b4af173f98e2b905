// SPDX-License-Identifier: BSD-3-Clause
// Random numbers from a counter: Philox4x32-10. Four words of a counter become four random ones, under a key of two
// words; the same counter and key give the same words, so that nothing is kept and any part can be made again.
//
//   one of ten rounds   (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))
//   after each          (k0, k1) <- (k0 + 0x9E3779B9, k1 + 0xBB67AE85)
//   with                M0 = 0xD2511F53, M1 = 0xCD9E8D57, and hi and lo the halves of a product of 64 bits
//
// Words stand in the low halves of 64-bit lanes, whose other halves are not looked at: a product of two words is then
// one instruction, and the words of a round need no shuffles. About two and a half instructions for a random word.
//
// John Salmon, Mark Moraes, Ron Dror, David Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, 2011.
#pragma once

#include <cstdint>

#include "vector.hpp"

namespace attend::inline ATTEND_TARGET::simd {

/// As many 64-bit lanes as a vector has.
using wide_words [[gnu::vector_size(sizeof(std::uint64_t) * width<double>)]] = std::uint64_t;

namespace detail {

/// Products of low halves with a word.
ATTEND_INLINE std::uint64_t multiply_words(std::uint64_t a, std::uint32_t b) { return (a & 0xFFFFFFFFu) * b; }
ATTEND_INLINE wide_words multiply_words(wide_words const& a, std::uint32_t b) {
#if defined(__AVX512F__)
  return reinterpret_cast<wide_words>(_mm512_mul_epu32(reinterpret_cast<__m512i>(a), _mm512_set1_epi64(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<wide_words>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(b)));
#elif defined(__SSE2__) && !defined(__AVX__)
  return reinterpret_cast<wide_words>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), _mm_set1_epi64x(b)));
#else
  return (a & 0xFFFFFFFFu) * std::uint64_t{b};
#endif
}

}  // namespace detail

/// Replaces the words of counters by random words; Words is a number or a vector of numbers of 64 bits.
template <class Words>
ATTEND_INLINE void philox(Words (&words)[4], std::uint32_t key0, std::uint32_t key1) {
  ATTEND_UNROLL for (int round = 0; round < 10; ++round) {
    Words const first = detail::multiply_words(words[0], 0xD2511F53u);
    Words const second = detail::multiply_words(words[2], 0xCD9E8D57u);
    words[0] = (second >> 32) ^ words[1] ^ std::uint64_t{key0};
    words[1] = second;
    words[2] = (first >> 32) ^ words[3] ^ std::uint64_t{key1};
    words[3] = first;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

}  // namespace attend::inline ATTEND_TARGET::simd
