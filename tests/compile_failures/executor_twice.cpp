// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: executor given twice
// A call runs in one place.
#include <attend/attention/softmax/softmax_attention.hpp>

void call(attend::tensor_view<float, 4> const& t) {
  attend::softmax_attention(t, t, t, t, attend::serial{}, attend::threads{2});
}
