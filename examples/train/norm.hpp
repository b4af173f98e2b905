// SPDX-License-Identifier: BSD-3-Clause
// Rows divided by their root mean square, and the gradient.
//
//   y = norm(x) = x r               r = 1 / sqrt(mean of x^2 + 1e-5)
//   d_x = r (d_y - y mean(d_y y))
//
// Biao Zhang, Rico Sennrich: Root Mean Square Layer Normalization, 2019.
#pragma once

#include <Eigen/Core>

#include "../io/arrays.hpp"

namespace train {

using attend_io::matrix_of;
using Eigen::Index;

template <class T>
struct norm {
  matrix_of<T> output;
  Eigen::Matrix<T, Eigen::Dynamic, 1> factors;

  void apply(matrix_of<T> const& x) {
    T const epsilon = T(1e-5);
    factors = ((x.rowwise().squaredNorm() / static_cast<T>(x.cols())).array() + epsilon).sqrt().inverse();
    output = x.array().colwise() * factors.array();
  }

  /// Adds d_x to `of_x`.
  template <class Rows>
  void add_gradient(Rows const& of_output, matrix_of<T>& of_x) const {
    Eigen::Matrix<T, Eigen::Dynamic, 1> const means =
        of_output.cwiseProduct(output).rowwise().sum() / static_cast<T>(output.cols());
    of_x.array() += (of_output.array() - output.array().colwise() * means.array()).colwise() * factors.array();
  }
};

}  // namespace train
