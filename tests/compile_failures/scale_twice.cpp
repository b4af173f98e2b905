// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: scale given twice
// Two scales could mean their product or the last.
#include <attend/attention/softmax/softmax_attention.hpp>

void call(attend::tensor_view<float, 4> const& t) {
  attend::softmax_attention(t, t, t, t, attend::scale(1), attend::scale(2));
}
