// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: this store takes no tokens: softmax_attention attends to those that it has
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/cache/contiguous.hpp>

void call(attend::tensor_view<float, 4> const& x, attend::caches::key_value_tensors<float>& cache) {
  attend::cached_attention(cache, x, x, x, x);
}
