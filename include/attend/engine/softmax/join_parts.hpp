// SPDX-License-Identifier: BSD-3-Clause
// Sums over disjoint sets of keys, each relative to a maximum of its own, become one: what softmax in pieces comes to.
//
//   m = max_i m_i        sum = sum_i exp(m_i - m) sum_i        and the sum of weights likewise
//
// A part that saw nothing has m_i = -inf and no influence. A log-sum-exp is the maximum of a part whose weights sum up
// to 1.
#pragma once

#include <cmath>

#include "../../simd/convert.hpp"
#include "../../simd/math.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Turns the parts' maxima into what their sums are multiplied by, and gives the maximum of all, which is `least` at
/// least. Where a part's maximum is NaN, so is that.
template <class A>
A join_maxima(A* maximum, index_t count, A least = -infinity<A>) {
  A most = least;
  for (index_t i = 0; i < count; ++i)
    if (maximum[i] > most || std::isnan(maximum[i])) most = maximum[i];
  for (index_t i = 0; i < count; ++i) {
    A const below = maximum[i] - most;
    maximum[i] = maximum[i] == -infinity<A> ? A(0) : below == 0 ? A(1) : std::exp(below);
  }
  return most;
}

/// The same of two parts, lane by lane.
template <class A>
struct joined_lanes {
  joined_lanes(simd::vector<A> const& first, simd::vector<A> const& second) : maximum(simd::max(first, second)) {
    // Both are -inf for rows that saw nothing in either part.
    simd::vector<A> const base = simd::select(maximum == simd::vector<A>(-infinity<A>), simd::vector<A>(A(0)), maximum);
    of_first = simd::exp<A>(first - base);
    of_second = simd::exp<A>(second - base);
  }

  simd::vector<A> maximum, of_first, of_second;
};

/// Turns the log-sum-exps of a row's parts into the factors of their outputs, and gives that of all together.
template <class A>
A merge_factors(A* log_sum_exp, index_t count) {
  A const most = join_maxima(log_sum_exp, count);
  A sum = 0;
  for (index_t i = 0; i < count; ++i) sum += log_sum_exp[i];
  if (sum == 0) return -infinity<A>;
  for (index_t i = 0; i < count; ++i) log_sum_exp[i] /= sum;
  return most + std::log(sum);
}

/// to[:] = sum of factor[i] * row(i)[:] over the parts whose factor is not 0. `to` may be one of the rows.
template <Element To, class A, class Row>
void merge_rows(A const* factor, index_t count, Row const& row, index_t dimension, To* to) {
  constexpr index_t step = simd::width<A>;
  index_t c = 0;
  for (; c + step <= dimension; c += step) {
    simd::vector<A> sum(A(0));
    for (index_t i = 0; i < count; ++i)
      if (factor[i] != 0) sum = simd::fused_multiply_add(simd::vector<A>(factor[i]), simd::widen(row(i) + c), sum);
    simd::narrow(to + c, sum);
  }
  if (c == dimension) return;
  simd::vector<A> sum(A(0));
  for (index_t i = 0; i < count; ++i)
    if (factor[i] != 0)
      sum = simd::fused_multiply_add(simd::vector<A>(factor[i]), simd::widen_part(row(i) + c, dimension - c), sum);
  simd::narrow_part(to + c, sum, dimension - c);
}

}  // namespace attend::inline ATTEND_TARGET::engine
