// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: log_sum_exp is known for softmax only
// Sigmoid weights have no denominator.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>

void call(attend::tensor_view<float, 4> const& t, attend::tensor_view<float, 3> const& rows) {
  attend::softmax_attention(t, t, t, t, attend::options::sigmoid_weights{}, attend::options::log_sum_exp{rows});
}
