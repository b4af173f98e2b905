// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a weight_function is called with the weights of a softmax
// Weights of a sigmoid have no sum that would have to be known first: the normalizer is that function.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/weight_function.hpp>

void call(attend::tensor_view<float, 4> const& t) {
  attend::softmax_attention(t, t, t, t, attend::options::sigmoid_weights{},
                            attend::options::weight_function([](auto p, auto const&) { return p; }));
}
