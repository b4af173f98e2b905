// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: linear attention is causal{} or sees everything
// A state cannot forget the tokens that leave a window.
#include <attend/attention/linear/linear_attention.hpp>
#include <attend/policy/mask/window.hpp>

void call(attend::tensor_view<float, 4> const& t) { attend::linear_attention(t, t, t, t, attend::window{4, 0}); }
