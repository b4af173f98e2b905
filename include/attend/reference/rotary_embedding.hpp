// SPDX-License-Identifier: BSD-3-Clause
// Rotary positions by definition: pairs of channels as complex numbers, times e^(i angle), in double.
#pragma once

#include <complex>
#include <functional>
#include <vector>

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// The complex number by which a pair of a token of a batch is multiplied.
using rotary_factor = std::function<std::complex<double>(index_t batch, index_t token, index_t pair)>;

/// theta_i = base^(-2i / dimension), radians per position.
inline double rotary_frequency(index_t pair, index_t dimension, double base) {
  return std::pow(base, -2.0 * static_cast<double>(pair) / static_cast<double>(dimension));
}

/// x [batch, head, token, dimension] -> the same shape. The first 2 * pairs channels are rotated.
template <class T>
std::vector<double> rotary_embedding(tensor_view<T const, 4> x, index_t pairs, bool interleaved,
                                     rotary_factor const& factor) {
  std::vector<double> y;
  for (index_t b = 0; b < x.extent(0); ++b)
    for (index_t h = 0; h < x.extent(1); ++h)
      for (index_t t = 0; t < x.extent(2); ++t) {
        std::vector<double> row;
        for (index_t c = 0; c < x.extent(3); ++c) row.push_back(static_cast<double>(x(b, h, t, c)));
        for (index_t i = 0; i < pairs; ++i) {
          auto& real = row[static_cast<std::size_t>(interleaved ? 2 * i : i)];
          auto& imaginary = row[static_cast<std::size_t>(interleaved ? 2 * i + 1 : pairs + i)];
          std::complex<double> const turned = std::complex<double>(real, imaginary) * factor(b, t, i);
          real = turned.real();
          imaginary = turned.imag();
        }
        y.insert(y.end(), row.begin(), row.end());
      }
  return y;
}

}  // namespace attend::inline ATTEND_TARGET::reference
