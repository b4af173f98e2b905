// SPDX-License-Identifier: BSD-3-Clause
// Transposes a square of width x width elements in registers, in log2(width) rounds: first within the 16-byte parts of
// vectors, then among these. Each round is made of shuffles that are one instruction with no register of indices, so
// that a square of sixteen vectors and what a round needs fit into 32 registers. Sums along rows are formed by
// exchanging the halves of groups.
#pragma once

#include <utility>

#include "vector.hpp"

namespace attend::inline ATTEND_TARGET::simd {

namespace detail {

template <class T, int Half, std::size_t... Lane>
ATTEND_INLINE void exchange(vector<T>& upper, vector<T>& lower, std::index_sequence<Lane...>) {
  using native [[gnu::vector_size(sizeof(T) * sizeof...(Lane))]] = T;
  constexpr int count = sizeof...(Lane);
  native const a = std::bit_cast<native>(upper), b = std::bit_cast<native>(lower);
  upper = std::bit_cast<vector<T>>(
      native(__builtin_shufflevector(a, b, ((Lane & Half) ? count + int(Lane) - Half : int(Lane))...)));
  lower = std::bit_cast<vector<T>>(
      native(__builtin_shufflevector(a, b, ((Lane & Half) ? count + int(Lane) : int(Lane) + Half)...)));
}

/// The number of elements in one 16-byte part.
template <class T>
inline constexpr int part_lanes = static_cast<int>(16 / sizeof(T));

/// Interleaves the two rows within each 16-byte part, `Unit` elements of one and of the other in turn: those of the
/// part's first half, or those of its second half.
template <class T, int Unit, bool Second, std::size_t... Lane>
ATTEND_INLINE vector<T> interleave(vector<T> const& first, vector<T> const& second, std::index_sequence<Lane...>) {
  using native [[gnu::vector_size(sizeof(T) * sizeof...(Lane))]] = T;
  constexpr int count = sizeof...(Lane), part = part_lanes<T>;
  return std::bit_cast<vector<T>>(native(__builtin_shufflevector(
      std::bit_cast<native>(first), std::bit_cast<native>(second),
      (int(Lane) / part * part + (Second ? part / 2 : 0) + int(Lane) % part / (2 * Unit) * Unit + int(Lane) % Unit +
       (int(Lane) % part / Unit % 2 ? count : 0))...)));
}

/// The even 16-byte parts of the first row and then of the second row, or the odd parts of both.
template <class T, int Odd, std::size_t... Lane>
ATTEND_INLINE vector<T> every_other_part(vector<T> const& first, vector<T> const& second,
                                         std::index_sequence<Lane...>) {
  using native [[gnu::vector_size(sizeof(T) * sizeof...(Lane))]] = T;
  constexpr int part = part_lanes<T>;
  return std::bit_cast<vector<T>>(
      native(__builtin_shufflevector(std::bit_cast<native>(first), std::bit_cast<native>(second),
                                     ((2 * (int(Lane) / part) + Odd) * part + int(Lane) % part)...)));
}

/// Transposes the squares of part_lanes x part_lanes elements that part_lanes rows form within each 16-byte part.
template <class T, int Unit>
ATTEND_INLINE void transpose_parts(vector<T> (&rows)[width<T>]) {
  if constexpr (Unit < part_lanes<T>) {
    constexpr auto each_lane = std::make_index_sequence<width<T>>{};
    ATTEND_UNROLL for (int i = 0; i < width<T>; ++i) {
      if (i & Unit) continue;
      vector<T> const upper = interleave<T, Unit, false>(rows[i], rows[i + Unit], each_lane);
      rows[i + Unit] = interleave<T, Unit, true>(rows[i], rows[i + Unit], each_lane);
      rows[i] = upper;
    }
    transpose_parts<T, Unit * 2>(rows);
  } else if constexpr (part_lanes<T> == 4) {
    ATTEND_UNROLL for (int i = 0; i < width<T>; i += 4) std::swap(rows[i + 1], rows[i + 2]);
  }
}

/// Transposes the 16-byte parts as if each were one element: exchanges them among the rows that are part_lanes apart.
template <class T>
ATTEND_INLINE void exchange_parts(vector<T> (&rows)[width<T>]) {
  constexpr int part = part_lanes<T>, parts = width<T> / part;
  constexpr auto each_lane = std::make_index_sequence<width<T>>{};
  static_assert(parts == 1 || parts == 2 || parts == 4);
  if constexpr (parts == 2) {
    ATTEND_UNROLL for (int i = 0; i < part; ++i) exchange<T, part>(rows[i], rows[i + part], each_lane);
  } else if constexpr (parts == 4) {
    ATTEND_UNROLL for (int i = 0; i < part; ++i) {
      vector<T>&a = rows[i], &b = rows[i + part], &c = rows[i + 2 * part], &d = rows[i + 3 * part];
      vector<T> const even_first = every_other_part<T, 0>(a, b, each_lane),
                      odd_first = every_other_part<T, 1>(a, b, each_lane),
                      even_second = every_other_part<T, 0>(c, d, each_lane),
                      odd_second = every_other_part<T, 1>(c, d, each_lane);
      a = every_other_part<T, 0>(even_first, even_second, each_lane);
      b = every_other_part<T, 0>(odd_first, odd_second, each_lane);
      c = every_other_part<T, 1>(even_first, even_second, each_lane);
      d = every_other_part<T, 1>(odd_first, odd_second, each_lane);
    }
  }
}

/// Adds to each lane of the two rows the lane `Half` away. The result holds the first row's sums in the lanes whose bit
/// `Half` is 0, and the second row's sums in the others. Where no single instruction shuffles lanes of two operands in
/// this way, two blends, which need no shuffle unit, and a shuffle of one row take less time.
template <class T, int Half, std::size_t... Lane>
ATTEND_INLINE vector<T> sum_pair(vector<T> const& first, vector<T> const& second, std::index_sequence<Lane...>) {
  if constexpr (Half == 2 || Half == 8) {
    vector<T> upper = first, lower = second;
    exchange<T, Half>(upper, lower, std::index_sequence<Lane...>{});
    return upper + lower;
  }
  using native [[gnu::vector_size(sizeof(T) * sizeof...(Lane))]] = T;
  constexpr int count = sizeof...(Lane);
  native const a = std::bit_cast<native>(first), b = std::bit_cast<native>(second);
  native const stay = __builtin_shufflevector(a, b, ((Lane & Half) ? count + int(Lane) : int(Lane))...);
  native const move = __builtin_shufflevector(b, a, ((Lane & Half) ? count + int(Lane) : int(Lane))...);
  return std::bit_cast<vector<T>>(native(stay + __builtin_shufflevector(move, move, (int(Lane) ^ Half)...)));
}

template <class T, int Half>
ATTEND_INLINE vector<T> sum_pairs(vector<T>* rows) {
  if constexpr (Half == width<T>) {
    return rows[0];
  } else {
    ATTEND_UNROLL for (int i = 0; i < width<T> / (2 * Half); ++i) rows[i] =
        sum_pair<T, Half>(rows[2 * i], rows[2 * i + 1], std::make_index_sequence<width<T>>{});
    return sum_pairs<T, Half * 2>(rows);
  }
}

}  // namespace detail

/// rows[i][j] becomes rows[j][i].
template <class T>
ATTEND_INLINE void transpose(vector<T> (&rows)[width<T>]) {
  detail::transpose_parts<T, 1>(rows);
  detail::exchange_parts<T>(rows);
}

/// Lane i of the result is the sum over all lanes of rows[i]: a transposition that adds in every round, and so has half
/// as many rows in the next. The rows are overwritten.
template <class T>
ATTEND_INLINE vector<T> sum_rows(vector<T> (&rows)[width<T>]) {
  return detail::sum_pairs<T, 1>(rows);
}

}  // namespace attend::inline ATTEND_TARGET::simd
