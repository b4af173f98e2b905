// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a tensor has more axes than this argument takes
// Five axes where there are four at most.
#include <attend/attention/softmax/softmax_attention.hpp>

void call(attend::tensor_view<float, 5> const& t) { attend::softmax_attention(t, t, t, t); }
