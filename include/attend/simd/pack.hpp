// SPDX-License-Identifier: BSD-3-Clause
// Transposes rows in memory into columns whose lanes are the rows, and back: every kernel keeps queries side by side in
// lanes, while tensors hold them one after the other. Squares of width x width are transposed in registers.
#pragma once

#include "convert.hpp"
#include "transpose.hpp"

namespace attend::inline ATTEND_TARGET::simd {

/// to[column][lane] = row[lane][column] * factor, widened to A, for all lanes in [0, lanes) and columns in [0,
/// columns). `lanes` is a multiple of the width; columns are `stride` apart, and aligned; row[lane] may be null for a
/// row of zeros. T is an element type whose accumulation type is A, or bool.
template <class T, class A>
void pack_columns(T const* const* row, int lanes, index_t columns, A* to, index_t stride, A factor = A(1)) {
  constexpr int step = width<A>;
  for (int lane = 0; lane < lanes; lane += step)
    for (index_t column = 0; column < columns; column += step) {
      index_t const count = std::min<index_t>(step, columns - column);
      vector<A> square[array_size(step)];
      ATTEND_UNROLL for (int i = 0; i < step; ++i) {
        T const* const from = row[lane + i];
        square[i] = !from           ? vector<A>(A(0))
                    : count == step ? widen_to<A>(from + column)
                                    : widen_part_to<A>(from + column, count);
      }
      transpose<A>(square);
      for (int i = 0; i < count; ++i) store(to + (column + i) * stride + lane, square[i] * vector<A>(factor));
    }
}

/// The same for columns that follow each other without a gap.
template <class T, class A>
void pack_columns(T const* const* row, int lanes, index_t columns, A* to) {
  pack_columns(row, lanes, columns, to, lanes);
}

/// The other way round: row[lane][column] = narrow(from[column][lane] * factor[lane]), for rows that are not null.
template <Element T>
void unpack_columns(accumulation_t<T> const* from, int lanes, index_t columns, accumulation_t<T> const* factor,
                    T* const* row) {
  using A = accumulation_t<T>;
  constexpr int step = width<A>;
  for (int lane = 0; lane < lanes; lane += step) {
    vector<A> const scale = load(factor + lane);
    for (index_t column = 0; column < columns; column += step) {
      index_t const count = std::min<index_t>(step, columns - column);
      vector<A> square[array_size(step)];
      ATTEND_UNROLL for (int i = 0; i < step; ++i) {
        square[i] = i < count ? load(from + (column + i) * lanes + lane) * scale : vector<A>(A(0));
      }
      transpose<A>(square);
      ATTEND_UNROLL for (int i = 0; i < step; ++i) {
        T* const to = row[lane + i];
        if (!to) continue;
        if (count == step)
          narrow(to + column, square[i]);
        else
          narrow_part(to + column, square[i], count);
      }
    }
  }
}

}  // namespace attend::inline ATTEND_TARGET::simd
