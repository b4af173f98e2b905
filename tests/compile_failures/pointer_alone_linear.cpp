// SPDX-License-Identifier: BSD-3-Clause
// expect only: attend: a pointer alone has no extents: write attend::tensor_view(pointer, {
// The same, with options.
#include <attend/attention/linear/linear_attention.hpp>
#include <attend/policy/mask/causal.hpp>

void call(float* x) { attend::linear_attention(x, x, x, x, attend::causal{}, attend::threads{2}); }
