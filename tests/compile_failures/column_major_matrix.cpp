// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a matrix's last stride must be 1: use Eigen::RowMajor
// Eigen's default order of a matrix.
#include <Eigen/Core>

#include <attend/attention/softmax/softmax_attention.hpp>

void call(Eigen::MatrixXf& m) { attend::softmax_attention(m, m, m, m); }
