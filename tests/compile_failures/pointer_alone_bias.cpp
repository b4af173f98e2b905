// SPDX-License-Identifier: BSD-3-Clause
// expect only: attend: a pointer alone has no extents: write attend::tensor_view(pointer, {
// Tensors within options are views as well.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/score/bias.hpp>

void call(attend::tensor_view<float, 4> const& x, float const* numbers) {
  attend::softmax_attention(x, x, x, x, attend::bias(numbers));
}
