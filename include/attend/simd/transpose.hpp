// Transposes a square of width x width elements in registers: log2(width) rounds, in each of which the rows i and i + h
// exchange the halves of their 2h-wide groups. Sums along such rows are formed the same way.
#pragma once

#include <utility>

#include "vector.hpp"

namespace attend::simd {

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

template <class T, int Half>
ATTEND_INLINE void exchange_all(vector<T> (&rows)[width<T>]) {
  if constexpr (Half < width<T>) {
    ATTEND_UNROLL for (int i = 0; i < width<T>; ++i) {
      if (!(i & Half)) exchange<T, Half>(rows[i], rows[i + Half], std::make_index_sequence<width<T>>{});
    }
    exchange_all<T, Half * 2>(rows);
  }
}

/// The two rows' lanes, added to those `Half` away: the first row's where that bit of the lane is 0, else the second's.
/// Where lanes cannot be exchanged by one instruction's two operands, it takes less to choose, which needs no shuffle
/// unit, and to shuffle one row.
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
  detail::exchange_all<T, 1>(rows);
}

/// Lane i of the result is the sum over all lanes of rows[i]: a transposition that adds in every round, and so has half
/// as many rows in the next. The rows are lost.
template <class T>
ATTEND_INLINE vector<T> sum_rows(vector<T> (&rows)[width<T>]) {
  return detail::sum_pairs<T, 1>(rows);
}

}  // namespace attend::simd
