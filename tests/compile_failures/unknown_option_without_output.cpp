// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: unknown option
// The same, of the call that returns its output.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/core/eigen_tensor.hpp>

void call(Eigen::Tensor<float, 4, Eigen::RowMajor> const& t) { attend::softmax_attention(t, t, t, 0.5f); }
