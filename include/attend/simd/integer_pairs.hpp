// SPDX-License-Identifier: BSD-3-Clause
// Products of 16-bit integers, added up in pairs to sums of 32 bits, and stored rows of small integers as their
// factors:
//
//   sum[l] += a[2 l] b[2 l] + a[2 l + 1] b[2 l + 1]
//
// It is one instruction of as many bits as a fused multiply-add of floats, with twice as many products, and widening to
// 16 bits takes fewer instructions than conversion to floats. Sums are exact as long as they fit.
//
//   pair_cursor     one row: neighbouring elements are a pair, for sums over a row
//   pairs_cursor    two rows: elements of the same column are a pair, for sums over rows
//
// A row of 4-bit numbers lies in words of 16 bits, each of which gives one element to each of four vectors.
#pragma once

#include <cstring>

#include "stored_row.hpp"

namespace attend::inline ATTEND_TARGET::simd {

/// Whether the machine multiplies and adds pairs in one instruction.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
inline constexpr bool multiplies_pairs = true;
#else
inline constexpr bool multiplies_pairs = false;
#endif

using pair_vector [[gnu::vector_size(4 * width<float>)]] = std::int16_t;
using pair_sums = detail::lanes::signed32;

/// sums[l] + a[2 l] * b[2 l] + a[2 l + 1] * b[2 l + 1]
ATTEND_INLINE pair_sums add_pairs(pair_vector const& a, pair_vector const& b, pair_sums const& sums) {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
  return std::bit_cast<pair_sums>(
      _mm512_dpwssd_epi32(std::bit_cast<__m512i>(sums), std::bit_cast<__m512i>(a), std::bit_cast<__m512i>(b)));
#else
  auto const x = std::bit_cast<pair_sums>(a), y = std::bit_cast<pair_sums>(b);
  return sums + ((x << 16) >> 16) * ((y << 16) >> 16) + (x >> 16) * (y >> 16);
#endif
}

ATTEND_INLINE vector<float> to_floats(pair_sums const& sums) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtepi32_ps(0xffff, std::bit_cast<__m512i>(sums));
#else
  return std::bit_cast<vector<float>>(detail::lanes::real(__builtin_convertvector(sums, detail::lanes::real)));
#endif
}

namespace detail {

ATTEND_INLINE pair_vector widen_to_pairs(std::int8_t const* from) {
#if defined(__AVX512BW__)
  // gcc 12 compiles the portable conversion below to several instructions.
  return std::bit_cast<pair_vector>(
      _mm512_maskz_cvtepi8_epi16(0xffffffff, _mm256_loadu_si256(reinterpret_cast<__m256i const*>(from))));
#else
  using bytes [[gnu::vector_size(2 * width<float>)]] = std::int8_t;
  bytes stored;
  std::memcpy(&stored, from, sizeof(stored));
  return __builtin_convertvector(stored, pair_vector);
#endif
}

/// The numbers of 4 bits from bit 4 * `place` on of each word.
ATTEND_INLINE pair_vector four_bits_of(pair_vector const& words, int place) {
  return (words << (12 - 4 * place)) >> 12;
}

/// Turns stored numbers of 4 bits, which are larger by 8, into numbers with a sign.
ATTEND_INLINE lanes::bits32 remove_offset(lanes::bits32 const& words) { return words ^ 0x88888888u; }

}  // namespace detail

/// The number of pair vectors that are read from the same bits.
template <StorageElement T>
inline constexpr int pair_group = std::same_as<T, caches::int4_pair> ? 4 : 1;

/// The element of a row that pair_cursor gives in that lane of that pair vector.
template <StorageElement T>
constexpr index_t pair_column(index_t vector, index_t lane) {
  constexpr index_t group = pair_group<T>;
  return vector / group * group * 2 * width<float> + lane * group + vector % group;
}

/// Reads the pair vectors of a row one after the other, from number `vector` on, which begins a group, to the end of
/// the group.
template <StorageElement T>
class pair_cursor;

template <>
class pair_cursor<std::int8_t> {
 public:
  ATTEND_INLINE pair_cursor() = default;
  ATTEND_INLINE pair_cursor(std::int8_t const* row, index_t vector)
      : words_(detail::widen_to_pairs(row + vector * 2 * width<float>)) {}

  ATTEND_INLINE pair_vector next() { return words_; }

 private:
  pair_vector words_{};
};

template <>
class pair_cursor<caches::int4_pair> {
 public:
  ATTEND_INLINE pair_cursor() = default;
  ATTEND_INLINE pair_cursor(caches::int4_pair const* row, index_t vector) {
    detail::lanes::bits32 stored;
    std::memcpy(&stored, row + vector * width<float>, sizeof(stored));
    words_ = std::bit_cast<pair_vector>(detail::remove_offset(stored));
  }

  ATTEND_INLINE pair_vector next() { return detail::four_bits_of(words_, place_++); }

 private:
  pair_vector words_{};
  int place_ = 0;
};

/// Reads a group of two rows, from its vector number `place` on: lane l of vector v holds the pair of both rows'
/// elements stored_column<T, true>(v, l).
template <StorageElement T>
class pairs_cursor {
 public:
  ATTEND_INLINE pairs_cursor() = default;
  ATTEND_INLINE pairs_cursor(T const* first, T const* second, int place)
      : first_(words_of(first)), second_(words_of(second)), place_(place) {}

  ATTEND_INLINE pair_vector next() {
    constexpr bool four_bits = std::same_as<T, caches::int4_pair>;
    constexpr int of_word = four_bits ? 4 : 1;
    // The words of even or of odd places of both rows, side by side.
    auto const words =
        place_ < of_word ? (first_ & 0xffffu) | (second_ << 16) : (first_ >> 16) | (second_ & 0xffff0000u);
    int const place = place_++ % of_word;
    if constexpr (four_bits)
      return detail::four_bits_of(std::bit_cast<pair_vector>(detail::remove_offset(words)), place);
    else
      return std::bit_cast<pair_vector>(words);
  }

 private:
  ATTEND_INLINE static detail::lanes::bits32 words_of(T const* from) {
    detail::lanes::bits32 words;
    if constexpr (std::same_as<T, std::int8_t>)
      words = std::bit_cast<detail::lanes::bits32>(detail::widen_to_pairs(from));
    else
      std::memcpy(&words, from, sizeof(words));
    return words;
  }

  detail::lanes::bits32 first_{}, second_{};
  int place_ = 0;
};

}  // namespace attend::inline ATTEND_TARGET::simd
