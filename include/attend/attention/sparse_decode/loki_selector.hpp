// SPDX-License-Identifier: BSD-3-Clause
// Loki: tokens ranked by a few principal channels of their keys.
//
//   P   [dimension, dimension], orthogonal: the principal axes of the keys of a head, the largest first
//   k'  = k P, q' = q P;  q' . k' = q . k
//   a_j = sum over the first r channels of q'_c k'_jc
//   o   = softmax over the k tokens of largest a_j of (scale * q' . k'_j), times v_j
//
// The cache holds rotated keys k', and the selector a copy of their first r channels, so that ranking reads just those.
// Axes are those of principal_slicing(keys, 1), of keys as they are attended to (after rotary positions);
// to_principal_axes rotates queries and keys. In the paper each query head has its own tokens (list_of::query_head);
// one list for the heads that share keys reads each token once: by the mean of their scores, which is one product for
// all of them, or by the largest.
//
// Bytes of a step for n tokens and a key-value head: r numbers for each token, and the chosen keys and values.
//
// Prajwal Singhania, Siddharth Singh, Shwai He, Soheil Feizi, Abhinav Bhatele: Loki: Low-Rank Keys for Efficient Sparse
// Attention, 2024.
#pragma once

#include "../../core/head_loop.hpp"
#include "../../engine/softmax/projection.hpp"
#include "../../select/page_selector.hpp"
#include "selected_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

template <Element S>
using loki_selector = page_selector<leading_keys, S>;

/// Gives Loki's choice of tokens; its selector takes leading_keys{rank}. A page is one token: nothing is rounded but a
/// fraction of the sequence, which is rounded up.
///
///     loki_selector<float> selector(shape, 32, 4096, loki_tokens({.tokens = 1024}), leading_keys{32});
inline page_selector_options loki_tokens(selection_budget const& budget, list_of lists = list_of::key_value_head,
                                         score_of score = score_of::mean) {
  return {.page_tokens = 1, .budget = budget, .lists = lists, .score = score};
}

/// Multiplies x [batch, head, token, dimension] by axes [key-value head, dimension, dimension], which have the
/// accumulation type, into y of x's shape. Heads of x are a multiple of the key-value heads. The work is done by one
/// thread unless an executor is given.
///
/// Throws argument_error, before anything is written, where shapes or memory do not fit.
///
///     to_principal_axes(q, head_matrices, o);
template <TensorArgument X, TensorArgument Axes, TensorArgument Y, Executor E = serial>
void to_principal_axes(X const& tensor, Axes const& axes, Y&& rotated, E&& executor = {}) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Y>;
  using A = accumulation_t<T>;
  static_assert(std::same_as<element_of_t<X const>, T> && std::same_as<element_of_t<Axes const>, A>,
                "attend: x and y have one element type, and axes its accumulation type");
  tensor_view<T const, 4> const x = raise<4>(view_of(tensor));
  tensor_view<A const, 3> const p = raise<3>(view_of(axes));
  tensor_view<T, 4> const y = raise<4>(view_of(rotated));
  detail::check_view("x", x);
  detail::check_view("axes", p);
  detail::check_extent("axes", "rows", p.extent(1), x.extent(3), "x's dimension");
  detail::check_extent("axes", "columns", p.extent(2), x.extent(3), "x's dimension");
  if (p.extent(0) == 0 ? x.extent(1) != 0 : x.extent(1) % p.extent(0) != 0)
    fail("axes", "expected a head count that divides ", x.extent(1), " (x), got ", p.extent(0));
  detail::check_output_view("y", y);
  if (y.extents() != x.extents())
    fail("y", "expected shape ", detail::shape_text<4>(x.extents()), " (as x), got ",
         detail::shape_text<4>(y.extents()));
  detail::check_apart("y", y, "x", x);
  detail::check_apart("y", y, "axes", raise<4>(p));
  detail::check_executor(executor);
  if (x.empty()) return;
  constexpr index_t most = engine::projection<A>::lanes;
  index_t const tokens = x.extent(2), group_size = x.extent(1) / p.extent(0), dimension = x.extent(3);
  index_t const rows = group_size * tokens, pieces = divide_up(rows, most);
  detail::loop_cost const of_piece = detail::loop_cost::of(2 * std::min(most, rows) * dimension * dimension);
  detail::for_heads(executor, x.extent(0) * p.extent(0), pieces, of_piece, [&](index_t heads_before, index_t piece) {
    index_t const first = piece * most, head = heads_before % p.extent(0), batch = heads_before / p.extent(0);
    index_t const count = std::min(most, rows - first);
    T const* from[array_size(most)];
    T* to[array_size(most)];
    for (index_t i = 0; i < count; ++i) {
      index_t const x_head = head * group_size + (first + i) / tokens, token = (first + i) % tokens;
      from[i] = &x(batch, x_head, token, 0);
      to[i] = &y(batch, x_head, token, 0);
    }
    scratch memory;
    engine::projection<A>(memory, tensor_view<A const, 2>(&p(head, 0, 0), {dimension, dimension}, {p.stride(1), 1}),
                          count)
        .multiply(from, to);
  });
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
