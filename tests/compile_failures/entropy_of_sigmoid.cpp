// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: entropy is that of softmax weights: others do not sum up to 1
// Sigmoid weights have no denominator.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>

void call(attend::tensor_view<float, 4> const& t, attend::tensor_view<float, 3> const& rows) {
  attend::softmax_attention(t, t, t, t, attend::options::sigmoid_weights{}, attend::options::entropy{rows});
}
