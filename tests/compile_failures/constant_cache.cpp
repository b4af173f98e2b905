// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: the cache is const: tokens are appended to it
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/cache/contiguous.hpp>

void call(attend::tensor_view<float, 4> const& x, attend::contiguous_cache<float> const& cache) {
  attend::cached_attention(cache, x, x, x, x);
}
