// SPDX-License-Identifier: BSD-3-Clause
// The dot product of two rows, sum_c a[c] * b[c], where the elements of `a` may be narrower than those of `b`.
//
// Four sums are in flight: a multiply-add has a latency of four cycles, and since each needs two loads, no more than
// one starts in a cycle.
#pragma once

#include <numeric>

#include "convert.hpp"

namespace attend::inline ATTEND_TARGET::simd {

template <Element T>
accumulation_t<T> dot(T const* a, accumulation_t<T> const* b, index_t count) {
  using A = accumulation_t<T>;
  constexpr index_t step = width<A>, group_size = 4;
  vector<A> sum[group_size];
  ATTEND_UNROLL for (int i = 0; i < group_size; ++i) sum[i] = vector<A>(A(0));
  index_t c = 0;
  for (; c + group_size * step <= count; c += group_size * step)
    ATTEND_UNROLL for (int i = 0; i < group_size; ++i) sum[i] =
        fused_multiply_add(widen(a + c + i * step), widen(b + c + i * step), sum[i]);
  for (; c + step <= count; c += step) sum[0] = fused_multiply_add(widen(a + c), widen(b + c), sum[0]);
  if (c < count) sum[1] = fused_multiply_add(widen_part(a + c, count - c), widen_part(b + c, count - c), sum[1]);
  alignas(64) A lanes[width<A>];
  store(lanes, (sum[0] + sum[1]) + (sum[2] + sum[3]));
  return std::accumulate(lanes, lanes + width<A>, A(0));
}

}  // namespace attend::inline ATTEND_TARGET::simd
