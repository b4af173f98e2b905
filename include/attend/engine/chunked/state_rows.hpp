// SPDX-License-Identifier: BSD-3-Clause
// Input and output of the engines that carry a state: tokens become rows of features, and sums become rows of the
// output.
#pragma once

#include "../rows.hpp"
#include "any_state_policies.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Widens `count` tokens of a head to rows that are `stride` apart.
template <Element T>
void widen_tokens(tensor_view<T const, 4> const& tensor, feature_tokens const& run, index_t count,
                  accumulation_t<T>* to, index_t stride) {
  rows_of<T> const from = rows_of_head(tensor, run.batch, run.head, run.first);
  for (index_t i = 0; i < count; ++i) simd::widen_row(from.row(i), to + i * stride, tensor.extent(3));
}

/// Widens `count` tokens of a head to `raw`, as rows of the tensor's dimension, rounded up to whole vectors.
template <Element T, class A = accumulation_t<T>>
token_rows<A> load_raw(tensor_view<T const, 4> const& tensor, feature_tokens const& run, index_t count, A* raw) {
  index_t const dimension = tensor.extent(3), stride = round_up(dimension, simd::width<A>);
  widen_tokens(tensor, run, count, raw, stride);
  return run.rows(raw, stride, count, dimension);
}

/// Writes feature f of token i to to[i * stride + f]. The identity does not need `raw`.
template <Element T, class A = accumulation_t<T>>
void load_features(tensor_view<T const, 4> const& tensor, any_state_policies<A> const& policies,
                   feature_tokens const& run, index_t count, A* raw, A* to, index_t stride) {
  if (policies.has_identity)
    widen_tokens(tensor, run, count, to, stride);
  else
    policies.fill(load_raw(tensor, run, count, raw), to, stride);
}

template <class A>
A sum_of_lanes(simd::vector<A> const& x) {
  alignas(64) A lanes[simd::width<A>];
  simd::store(lanes, x);
  A sum = 0;
  for (A lane : lanes) sum += lane;
  return sum;
}

/// a . b over `count` elements, a multiple of the width; both rows are aligned.
template <class A>
A dot(A const* a, A const* b, index_t count) {
  simd::vector<A> sum(A(0));
  for (index_t i = 0; i < count; i += simd::width<A>)
    sum = simd::fused_multiply_add(simd::load(a + i), simd::load(b + i), sum);
  return sum_of_lanes(sum);
}

/// The factor of a head's row with that mean square, where the norm is over all heads (finished_rows.hpp): 1 / r_h,
/// with which the row fits the output's type however large the sums were.
template <class A>
A head_factor(A mean_square) {
  return mean_square >= std::numeric_limits<A>::min() && mean_square < infinity<A> ? 1 / std::sqrt(mean_square) : A(1);
}

/// to = row * scale * the factor of the normalizer. `row` is aligned and padded to whole vectors with zeros; `key_sum`
/// is phi(q) . z, before the scale. For a normalizer over all heads, the row's mean square is written as well.
template <Element T, class A = accumulation_t<T>>
void finish_row(any_state_policies<A> const& policies, A scale, A key_sum, A const* row, index_t columns, T* to,
                A* mean_square) {
  constexpr index_t step = simd::width<A>;
  A factor = scale;
  if (policies.sums_keys) factor *= policies.factor(scale, key_sum);
  if (policies.whole_rows) {
    A const squares = scale * scale * dot(row, row, round_up(columns, step)) / static_cast<A>(columns);
    factor *= policies.joins_heads ? head_factor(*mean_square = squares) : policies.factor(1, squares);
  }
  simd::vector<A> const times(factor);
  index_t c = 0;
  for (; c + step <= columns; c += step) simd::narrow(to + c, simd::load(row + c) * times);
  if (c < columns) simd::narrow_part(to + c, simd::load(row + c) * times, columns - c);
}

}  // namespace attend::inline ATTEND_TARGET::engine
