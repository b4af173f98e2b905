// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a delta rule has no sum of keys to divide by
// What a delta rule writes depends on the state: its weights have no sum.
#include <attend/attention/linear/linear_attention.hpp>

void call(attend::tensor_view<float, 4> const& t, attend::tensor_view<float const, 3> const& rates) {
  attend::linear_attention(t, t, t, t, attend::causal{}, attend::linear::delta_rule(rates), attend::linear::key_sum{});
}
