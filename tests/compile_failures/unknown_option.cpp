// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: unknown option
// A number on its own says nothing about what it is.
#include <attend/attention/softmax/softmax_attention.hpp>

void call(attend::tensor_view<float, 4> const& t) { attend::softmax_attention(t, t, t, t, 0.5f); }
