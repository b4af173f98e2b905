// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a tensor's last stride must be 1: use Eigen::RowMajor
// Eigen's default order of axes.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/core/eigen_tensor.hpp>

void call(Eigen::Tensor<float, 4> const& t, Eigen::Tensor<float, 4, Eigen::RowMajor>& output) {
  attend::softmax_attention(t, t, t, output);
}
