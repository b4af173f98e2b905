// SPDX-License-Identifier: BSD-3-Clause
// expect: rotary given twice
#include <attend/attention/softmax/softmax_attention.hpp>

void call(attend::tensor_view<float, 4> const& x, attend::tensor_view<float, 4> const& y) {
  attend::rotary const settings{attend::options::rotary_frequencies(8)};
  attend::softmax_attention(x, x, x, y, settings, settings);
}
