// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: unknown option
// The same, of the call that returns its output.
#include <attend/core/eigen_tensor.hpp>
#include <attend/variant/softmax_attention.hpp>

void call(Eigen::Tensor<float, 4, Eigen::RowMajor> const& t) { attend::softmax_attention(t, t, t, 0.5f); }
