// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a feature map needs its derivative for a gradient
// No derivative is found of a function that comes alone.
#include <attend/attention/linear/linear_attention_backward.hpp>

void call(attend::tensor_view<float, 4> const& t) {
  attend::linear::linear_attention_backward(t, t, t, t, t, t, t,
                                            attend::linear::elementwise_features([](auto x) { return x * x; }));
}
