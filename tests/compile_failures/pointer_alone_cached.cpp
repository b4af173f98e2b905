// SPDX-License-Identifier: BSD-3-Clause
// expect only: attend: a pointer alone has no extents: write attend::tensor_view(pointer, {
// The same, beside a cache; and one pointer among views is enough.
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/cache/contiguous.hpp>

void call(attend::contiguous_cache<float>& cache, attend::tensor_view<float, 4> const& x, float* y) {
  attend::cached_attention(cache, x, x, x, y);
}
