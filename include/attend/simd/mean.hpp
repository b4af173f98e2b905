// SPDX-License-Identifier: BSD-3-Clause
// The mean of some rows, which represents a block, a window or a region of tokens.
//
//   mean = (1 / count) sum_{j < count} row(j)          in the accumulation type, rows summed in their order
//
// Lanes run along the dimension.
#pragma once

#include <algorithm>

#include "convert.hpp"

namespace attend::inline ATTEND_TARGET::simd {

/// The mean of row(0) to row(count - 1), each of `dimension` elements of T. No rows give zeros.
template <Element T, class Row>
void mean_of_rows(Row const& row, index_t count, index_t dimension, accumulation_t<T>* to) {
  using A = accumulation_t<T>;
  constexpr index_t step = width<A>;
  vector<A> const factor(count > 0 ? 1 / static_cast<A>(count) : A(0));
  for (index_t c = 0; c < dimension; c += step) {
    index_t const part = std::min(step, dimension - c);
    vector<A> sum(A(0));
    for (index_t j = 0; j < count; ++j) {
      T const* const at = row(j) + c;
      sum = sum + (part == step ? widen(at) : widen_part(at, part));
    }
    narrow_part(to + c, sum * factor, part);
  }
}

}  // namespace attend::inline ATTEND_TARGET::simd
