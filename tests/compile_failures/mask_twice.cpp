// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: mask given twice: combine masks with & | !
// Two masks could mean both or either.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/window.hpp>

void call(attend::tensor_view<float, 4> const& t) {
  attend::softmax_attention(t, t, t, t, attend::causal{}, attend::window{4, 0});
}
