// SPDX-License-Identifier: BSD-3-Clause
// Inputs that show how keys were chosen: whole numbers, with many scores that are exactly equal, and values that are
// NaN, which whoever sees them has in its output, and nobody else.
#pragma once

#include "problem.hpp"

namespace attend::test {

/// Queries and keys of -1, 0 and 1, values of normal numbers. Products, and means over 2^n rows, are exact in every
/// type, so that equal scores are equal also in a definition in double.
template <class T>
inputs<T> whole_number_inputs(sizes const& s, unsigned seed) {
  inputs<T> in = random_inputs<T>(s, seed);
  std::mt19937 engine(seed);
  for (auto* all : {&in.query, &in.key})
    for (T& x : all->elements) x = static_cast<T>(static_cast<double>(engine() % 3) - 1);
  return in;
}

/// A few tokens' values become NaN.
template <class T>
inputs<T> with_nan_values(inputs<T> in) {
  auto const value = in.value.view();
  for (index_t b = 0; b < value.extent(0); ++b)
    for (index_t h = 0; h < value.extent(1); ++h)
      for (index_t j = 2 + h + b; j < value.extent(2); j += 29)
        for (index_t c = 0; c < value.extent(3); ++c) value(b, h, j, c) = static_cast<T>(std::nan(""));
  return in;
}

}  // namespace attend::test
