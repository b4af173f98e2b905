// SPDX-License-Identifier: BSD-3-Clause
// The last steps for a token's outputs, after all of its heads are computed: a norm over all heads, and a gate.
//
//   y_h = x_h / r_h,   r_h = sqrt(mean_c(x_hc^2))         written by the task of each head, with r_h^2
//   o_h = y_h r_h / sqrt(mean_h(r_h^2) + epsilon) * u_h   computed here
//
// Heads are separate tasks, so a head cannot know the norm over all heads when it writes its output. Divided by its own
// r_h, the output fits its type however large the sums are, as long as their squares fit the accumulation type: from
// 1.8e19 on, in float, outputs are 0. The price is a second rounding in the output's type. A head whose r_h is 0 or not
// finite is not divided.
//
// Cost: the output is read and written once more, and one number is stored for each head and token.
#pragma once

#include "../../core/head_loop.hpp"
#include "../../simd/transform_row.hpp"
#include "state_rows.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Multiplies the elements of a row by `factor`, and by those of the gate if there is one.
template <Element T>
void scale_row(T* row, accumulation_t<T> factor, T const* gate, index_t columns) {
  using V = simd::vector<accumulation_t<T>>;
  V const times(factor);
  if (gate)
    simd::transform_row(row, columns, [&](V const& x, V const& g) { return x * times * g; }, row, gate);
  else
    simd::transform_row(row, columns, [&](V const& x) { return x * times; }, row);
}

/// Normalizes and gates the outputs of a problem that has run. The gate may be empty.
template <Element T, StateNormalizer N, class E>
void finish_rows(state_problem<T> const& p, N const& normalizer, tensor_view<T const, 4> const& gate, E& executor) {
  using A = accumulation_t<T>;
  using attend::detail::for_tokens, attend::detail::loop_cost;
  index_t const heads = p.shape.output_heads(), queries = p.shape.queries, columns = p.shape.value_dimension;
  if (heads == 0 || columns == 0) return;
  loop_cost const of_token =
      loop_cost::of(2 * heads * columns, (gate.data() ? 3 : 2) * heads * columns * static_cast<index_t>(sizeof(T)));
  for_tokens(executor, p.shape.batches, 1, queries, of_token, [&](index_t batch, index_t, index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) {
      A factor = 1;
      if constexpr (joins_heads<N>) {
        A sum = 0;
        for (index_t h = 0; h < heads; ++h) sum += p.mean_squares(batch, h, i);
        factor = normalizer.factor(sum / static_cast<A>(heads));
      }
      for (index_t h = 0; h < heads; ++h) {
        A times = factor;
        if constexpr (joins_heads<N>) times /= head_factor(p.mean_squares(batch, h, i));
        scale_row(&p.output(batch, h, i, 0), times, gate.data() ? &gate(batch, h, i, 0) : nullptr, columns);
      }
    }
  });
}

}  // namespace attend::inline ATTEND_TARGET::engine
