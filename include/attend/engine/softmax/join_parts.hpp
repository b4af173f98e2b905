// SPDX-License-Identifier: BSD-3-Clause
// Merges softmax sums over disjoint sets of keys, each relative to a maximum of its own, into one:
//
//   m = max_i m_i        sum = sum_i exp(m_i - m) sum_i        and the weight sum likewise
//
// A part without visible keys has m_i = -inf and changes nothing. An output with its log-sum-exp is such a part: its
// maximum is the log-sum-exp, its weight sum 1.
#pragma once

#include <cmath>

#include "../../simd/convert.hpp"
#include "../../simd/math.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Turns the parts' maxima into the factors of their sums, and returns the maximum of all, and of `least`. It is NaN
/// where a part's maximum is NaN.
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

/// The maximum and the factors of two parts, lane by lane.
template <class A>
struct joined_lanes {
  joined_lanes(simd::vector<A> const& first, simd::vector<A> const& second) : maximum(simd::max(first, second)) {
    // Both are -inf for rows without visible keys in either part: -inf - -inf would be NaN.
    simd::vector<A> const base = simd::select(maximum == simd::vector<A>(-infinity<A>), simd::vector<A>(A(0)), maximum);
    of_first = simd::exp<A>(first - base);
    of_second = simd::exp<A>(second - base);
  }

  simd::vector<A> maximum, of_first, of_second;
};

/// Turns the log-sum-exps of a row's parts into the factors of their outputs, and returns the log-sum-exp of the row.
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
