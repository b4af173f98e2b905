// SPDX-License-Identifier: BSD-3-Clause
// A stored row as vectors of the accumulation type: dequantised in registers, in the order that takes the fewest
// instructions. Vector v of a row holds in lane l the row's element stored_column<T>(v, l):
//
//   float, double, half, int8   v * width + l: a widening load, and for int8 a conversion
//   bfloat16                    a lane loads 32 bits, which are 2 elements; the first is shifted up, and for the second
//                               the lower 16 bits are cleared
//   int4_pair                   a lane loads 32 bits, which are 8 elements next to each other, and vector v of a group
//                               of 8 takes the v-th of each: no byte is moved across lanes. With AVX-512 a number of 4
//                               bits becomes a float by a look-up in one register.
//
// So queries are packed in that order and outputs are unpacked from it; sums over a row do not depend on the order.
#pragma once

#include <cstring>

#include "../core/storage.hpp"
#include "convert.hpp"

namespace attend::inline ATTEND_TARGET::simd {

/// The number of vectors that are unpacked from the same bits, called a group: a row is read in whole groups. Rows that
/// are read as pairs of integers (integer_pairs.hpp) have bytes in groups of two.
template <StorageElement T, bool InPairs = false>
inline constexpr int row_group = std::same_as<T, caches::int4_pair>                       ? 8
                                 : std::same_as<T, bfloat16> || (InPairs && is_scaled<T>) ? 2
                                                                                          : 1;

/// The number of elements in a group.
template <StorageElement T, bool InPairs = false>
inline constexpr index_t group_elements = row_group<T, InPairs> * width<storage_accumulation_t<T>>;

/// The element of a row that stands in that lane of that vector.
template <StorageElement T, bool InPairs = false>
constexpr index_t stored_column(index_t vector, index_t lane) {
  constexpr index_t group = row_group<T, InPairs>;
  return vector / group * group_elements<T, InPairs> + lane * group + vector % group;
}

/// Reads the vectors of a row one after the other, from number `vector` on.
template <StorageElement T>
class row_cursor {
 public:
  using A = storage_accumulation_t<T>;

  ATTEND_INLINE row_cursor() = default;
  ATTEND_INLINE row_cursor(T const* row, index_t vector) : at_(row + vector * width<A>) {}

  ATTEND_INLINE vector<A> next() {
    T const* const from = at_;
    at_ += width<A>;
    if constexpr (std::same_as<T, std::int8_t>)
      return detail::widen_bytes(from);
    else
      return widen(from);
  }

 private:
  T const* at_ = nullptr;
};

/// Reads at most to the end of one group, whose bits it holds in a register.
template <std::same_as<bfloat16> T>
class row_cursor<T> {
 public:
  ATTEND_INLINE row_cursor() = default;
  ATTEND_INLINE row_cursor(T const* row, index_t vector) : second_(vector % 2 != 0) {
    std::memcpy(&bits_, row + vector / 2 * 2 * width<float>, sizeof(bits_));
  }

  ATTEND_INLINE vector<float> next() {
    detail::lanes::bits32 const value = second_ ? bits_ & 0xffff0000u : bits_ << 16;
    second_ = true;
    return std::bit_cast<vector<float>>(value);
  }

 private:
  detail::lanes::bits32 bits_{};
  bool second_ = false;
};

/// Reads at most to the end of one group, whose bits it holds in a register.
template <>
class row_cursor<caches::int4_pair> {
 public:
  ATTEND_INLINE row_cursor() = default;
  ATTEND_INLINE row_cursor(caches::int4_pair const* row, index_t vector) {
    std::memcpy(&bits_, row + vector / 8 * 4 * width<float>, sizeof(bits_));
    bits_ >>= static_cast<std::uint32_t>(vector % 8 * 4);
  }

  ATTEND_INLINE vector<float> next() {
#if defined(__AVX512F__)
    // The permutation takes its index from the lowest four bits of each lane: no other bits need to be cleared.
    __m512 const numbers = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    vector<float> const value = _mm512_permutexvar_ps(std::bit_cast<__m512i>(bits_), numbers);
#else
    auto const stored = std::bit_cast<detail::lanes::signed32>(bits_ & 15u);
    auto const value =
        std::bit_cast<vector<float>>(detail::lanes::real(__builtin_convertvector(stored - 8, detail::lanes::real)));
#endif
    bits_ >>= 4u;
    return value;
  }

 private:
  detail::lanes::bits32 bits_{};
};

}  // namespace attend::inline ATTEND_TARGET::simd
