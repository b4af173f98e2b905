// SPDX-License-Identifier: BSD-3-Clause
// expect only: attend: a pointer alone has no extents: write attend::tensor_view(pointer, {
// Query, key, value and output as a C program holds them.
#include <attend/attention/softmax/softmax_attention.hpp>

void call(float const* x, float* y) { attend::softmax_attention(x, x, x, y); }
