// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: gradient_of_decay is asked for, but there is no decay
// Nothing would write it.
#include <attend/attention/linear/linear_attention_backward.hpp>

void call(attend::tensor_view<float, 4> const& t, attend::tensor_view<float, 3> const& logs) {
  attend::linear::linear_attention_backward(t, t, t, t, t, t, t, attend::linear::gradient_of_decay(logs));
}
