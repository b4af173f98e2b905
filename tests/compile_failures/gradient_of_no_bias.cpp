// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: the gradient of an option is asked for that is not given
// Nothing would write it.
#include <attend/attention/softmax/softmax_attention_backward.hpp>

void call(attend::tensor_view<float, 4> const& t, attend::tensor_view<float, 3> const& sums) {
  attend::options::softmax_attention_backward(t, t, t, t, sums, t, t, t, t, attend::options::gradient_of_bias(t));
}
