// SPDX-License-Identifier: BSD-3-Clause
// Compiled once for each instruction set: whatever calls attend. Only the table is seen from outside.
#include "kernels.hpp"

#include <attend/dispatch.hpp>

#include <attend/attention/linear/linear_attention.hpp>
#include <attend/attention/softmax/softmax_attention.hpp>

namespace {

void attention(float const* query, float const* key, float const* value, float* output, long tokens, long dimension) {
  using input = attend::tensor_view<float const, 2>;
  attend::softmax_attention(
      input(query, {tokens, dimension}), input(key, {tokens, dimension}), input(value, {tokens, dimension}),
      attend::tensor_view<float, 2>(output, {tokens, dimension}), attend::causal{}, attend::threads{2});
}

void linear_step(float const* query, float const* key, float const* value, float* state, float* output, long heads,
                 long dimension) {
  using input = attend::tensor_view<float const, 4>;
  using result = attend::tensor_view<float, 4>;
  attend::linear_attention(input(query, {1, heads, 1, dimension}), input(key, {1, heads, 1, dimension}),
                           input(value, {1, heads, 1, dimension}), result(output, {1, heads, 1, dimension}),
                           attend::causal{},
                           attend::linear::initial_state(input(state, {1, heads, dimension, dimension})),
                           attend::linear::final_state(result(state, {1, heads, dimension, dimension})));
}

}  // namespace

template <>
kernels attend::compiled<kernels, attend::this_target>() {
  return {attend::runtime::target, attention, linear_step};
}
