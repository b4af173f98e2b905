// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: unknown option of this call: it takes the kinds of its call::allows
// A system's formula says which keys are seen: it takes no mask.
#include <attend/attend.hpp>

void call(attend::tensor_view<float, 4> const& t) {
  attend::systems::moba_attention(t, t, t, t, {.block = 4, .top = 2}, attend::causal{});
}
