// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: normalizer given twice
// Weights come of one normalizer.
#include <attend/attention/softmax/softmax_attention.hpp>

void call(attend::tensor_view<float, 4> const& t) {
  attend::softmax_attention(t, t, t, t, attend::options::softmax{}, attend::options::softmax{});
}
