// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: output_gate given twice
// Two gates could mean their product or either.
#include <attend/attention/linear/linear_attention.hpp>

void call(attend::tensor_view<float, 4> const& t) {
  attend::linear_attention(t, t, t, t, attend::linear::output_gate(t), attend::linear::output_gate(t));
}
