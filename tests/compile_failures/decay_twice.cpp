// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: decay given twice
// Two decays could mean their product or either.
#include <attend/attention/linear/linear_attention.hpp>
#include <attend/policy/decay/token_decay.hpp>

void call(attend::tensor_view<float, 4> const& t, attend::tensor_view<float const, 3> const& rates) {
  attend::linear_attention(t, t, t, t, attend::linear::token_decay(rates), attend::linear::token_decay(rates));
}
