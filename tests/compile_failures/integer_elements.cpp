// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: elements are float, double, Eigen::half or Eigen::bfloat16
// There is no attention of integers.
#include <attend/attention/softmax/softmax_attention.hpp>

void call(attend::tensor_view<int, 4> const& t) { attend::softmax_attention(t, t, t, t); }
