// SPDX-License-Identifier: BSD-3-Clause
// expect only: attend: a pointer alone has no extents: write attend::tensor_view(pointer, {
// An array becomes a pointer where it is passed.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/core/eigen_tensor.hpp>

void call() {
  float x[64];
  attend::softmax_attention(x, x, x);
}
