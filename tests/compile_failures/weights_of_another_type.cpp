// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: weights and logits hold the accumulation type: float, or double for tensors of double
// Weights of halves are floats.
#include <Eigen/Core>

#include <attend/attention/softmax/softmax_attention.hpp>

void call(attend::tensor_view<attend::half, 4> const& t, attend::tensor_view<attend::half, 4> const& weights) {
  attend::options::attention_weights(t, t, weights);
}
