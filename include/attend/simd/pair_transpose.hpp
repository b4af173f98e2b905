// SPDX-License-Identifier: BSD-3-Clause
// Rows of bfloat16 in the forms that products of pairs want (pair_products.hpp):
//
//   to[column][lane] = row[lane][column]        pairs of a row's elements, one row in each lane: b
//   to[column]       = elements of two rows     pairs of two rows: b with the rows as its depth
//   to[column][row]  = row[row][column]         rows of a, with the rows as its depth
#pragma once

#include "pair_products.hpp"

namespace attend::inline ATTEND_TARGET::simd {

/// Transposes rows of pairs: to[column][lane] = row[lane][column], columns `stride` pairs apart. `lanes` and `columns`
/// are multiples of 16.
inline void transpose_pairs(void const* const* row, index_t lanes, index_t columns, pair_bits* to, index_t stride) {
  constexpr index_t count = width<float>;
  static_assert(pair_tile % count == 0);
  for (index_t lane = 0; lane < lanes; lane += count)
    for (index_t column = 0; column < columns; column += count) {
      vector<float> square[array_size(count)];
      ATTEND_UNROLL for (index_t i = 0; i < count; ++i)
          std::memcpy(&square[i], static_cast<pair_bits const*>(row[lane + i]) + column, sizeof(square[i]));
      transpose<float>(square);
      ATTEND_UNROLL for (index_t i = 0; i < count; ++i)
          std::memcpy(to + (column + i) * stride + lane, &square[i], sizeof(square[i]));
    }
}

/// The elements of two rows in turn: 16 pairs.
ATTEND_INLINE void interleave_pairs(void const* first, void const* second, pair_bits* to) {
  using row [[gnu::vector_size(2 * pair_tile)]] = std::uint16_t;
  using rows [[gnu::vector_size(4 * pair_tile)]] = std::uint16_t;
  row a, b;
  std::memcpy(&a, first, sizeof(a));
  std::memcpy(&b, second, sizeof(b));
  rows const pairs = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25,
                                             10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  std::memcpy(to, &pairs, sizeof(pairs));
}

/// Transposes 32 rows of 16 numbers: to[column] are those of a column, in the unit's order, a tile of rows of a.
template <class Unit>
ATTEND_INLINE void transpose_tile(std::uint16_t const* const* row, pair_bits* to) {
  alignas(64) pair_bits pairs[pair_tile][pair_tile];
  void const* lines[pair_tile];
  for (index_t i = 0; i < pair_tile; ++i) {
    interleave_pairs(row[Unit::order.number(i, 0)], row[Unit::order.number(i, 1)], pairs[i]);
    lines[i] = pairs[i];
  }
  transpose_pairs(lines, pair_tile, pair_tile, to, pair_tile);
}

}  // namespace attend::inline ATTEND_TARGET::simd
