// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: query, key, value and output must have one element type
// Keys of another type than the rest.
#include <attend/attention/softmax/softmax_attention.hpp>

void call(attend::tensor_view<float, 4> const& t, attend::tensor_view<double, 4> const& key) {
  attend::softmax_attention(t, key, t, t);
}
