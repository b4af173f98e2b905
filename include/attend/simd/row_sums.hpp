// SPDX-License-Identifier: BSD-3-Clause
// One sum for each pair of rows, over their elements: the logits of single pairs of a query and a key, or other scores
// of such pairs.
//
//   to[j] = scale * sum_c term(x(j)_c, y(j)_c)
//
// Lanes run along the elements, and the sums of as many rows as a vector has lanes are added up side by side by a
// transpose.
#pragma once

#include "convert.hpp"
#include "transpose.hpp"

namespace attend::inline ATTEND_TARGET::simd {

/// Sums over `count` pairs of rows x(j), y(j) of `dimension` elements. add(sum, x, y) returns `sum` plus the terms of a
/// vector of elements; past the end of the rows both x and y are 0, and the term must be 0. `to` is aligned, and has
/// room for whole vectors.
template <class A, class X, class Y, class Add>
void row_sums(index_t count, index_t dimension, A scale, A* to, X const& x, Y const& y, Add const& add) {
  constexpr int step = width<A>;
  auto const some = [](auto const* row, index_t left) { return left >= step ? widen(row) : widen_part(row, left); };
  for (index_t first = 0; first < count; first += step) {
    vector<A> square[array_size(step)];
    for (int i = 0; i < step; ++i) {
      square[i] = vector<A>(A(0));
      if (first + i >= count) continue;
      auto const *x_row = x(first + i), *y_row = y(first + i);
      for (index_t c = 0; c < dimension; c += step)
        square[i] = add(square[i], some(x_row + c, dimension - c), some(y_row + c, dimension - c));
    }
    transpose<A>(square);
    vector<A> sum = square[0];
    for (int i = 1; i < step; ++i) sum = sum + square[i];
    store(to + first, sum * vector<A>(scale));
  }
}

}  // namespace attend::inline ATTEND_TARGET::simd
