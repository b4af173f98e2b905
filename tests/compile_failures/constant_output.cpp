// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: the output is const: it is what a call writes
#include <attend/attention/softmax/softmax_attention.hpp>

void call(attend::tensor_view<float const, 4> const& x) { attend::softmax_attention(x, x, x, x); }
