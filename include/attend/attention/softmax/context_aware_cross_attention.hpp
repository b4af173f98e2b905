// SPDX-License-Identifier: BSD-3-Clause
// Context-aware cross-attention: each query mixes the attention to a window of the source with that to all of it.
//
//   o_i = g_i softmax_j(s_ij : |j - c_i| <= reach) V + (1 - g_i) softmax_j(s_ij) V
//
// c_i is where the query is aligned in the source (i * keys / queries, say), g_i a gate in [0, 1].
//
// Cost: dense attention, and that of the windows. Queries are taken some hundreds at a time, so that what is kept
// beside the output is the local half of those. Both halves are rounded to the element type before they are mixed, in
// the accumulation type.
//
// Liang Ding, Longyue Wang, Di Wu, Dacheng Tao, Zhaopeng Tu: Context-Aware Cross-Attention for Non-Autoregressive
// Translation (CCAN), 2020.
#pragma once

#include "../../policy/mask/centred_window.hpp"
#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Mixes local and global attention. Query, key, value and output have the shapes of softmax_attention. `gates` (from 0
/// to 1) and `centres` (in tokens of the source) are [batch, query head, query] and hold the accumulation type; an axis
/// of extent 1 serves all, and leading axes may be left out. `reach` is in tokens. Options, in any order: scale
/// (1/sqrt(key dimension) unless given) and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or where
/// `reach` is negative or NaN.
///
///     context_aware_cross_attention(q, k, v, o, gates, centres, 3.);  // 3 tokens on both sides of the centre
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, TensorArgument Gates,
          TensorArgument Centres, class... Options>
void context_aware_cross_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                                   Gates const& gates, Centres const& centres, double reach, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  call::allows<option::scale, option::executor>::check<Options...>();
  static_assert(std::same_as<element_of_t<Gates const>, A> && std::same_as<element_of_t<Centres const>, A>,
                "attend: gates and centres hold the accumulation type: float, or double for tensors of double");
  tensor_view<T const, 4> const q = raise<4>(view_of(query));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  auto const g = raise<3>(view_of(gates));
  auto const c = raise<3>(view_of(centres));
  // Queries are answered in turn: what is wrong with any of them must be known before the first.
  auto const whole = call::tensor_problem<T>(q, raise<4>(view_of(key)), raise<4>(view_of(value)), o);
  problem_shape const& shape = whole.shape;
  call::check_memory(whole);
  detail::row_tensor<A>::of_queries(g).check("gates", shape);
  centred_window(c, reach).check(shape);
  detail::check_apart("output", o, "gates", raise<4>(g));
  detail::check_apart("output", o, "centres", raise<4>(c));

  // What holds for all queries holds for some of them.
  auto const of_queries = [](auto const& view, index_t first, index_t count) {
    return view.extent(2) == 1 ? view : detail::part(view, 2, first, count);
  };
  constexpr index_t most = 512;
  for (index_t first = 0; first < std::max<index_t>(shape.queries, 1); first += most) {
    index_t const count = std::min(most, shape.queries - first);
    auto const some_queries = detail::part(q, 2, first, count);
    auto const global = detail::part(o, 2, first, count);
    scratch memory;
    index_t elements = 1;
    for (index_t extent : global.extents()) elements *= extent;
    tensor_view<T, 4> const local(memory.allocate<T>(elements), global.extents());
    softmax_attention(some_queries, key, value, global, options...);
    softmax_attention(some_queries, key, value, local, centred_window(of_queries(c, first, count), reach), options...);
    auto const gate = of_queries(g, first, count);
    auto const along = [&](int axis, index_t i) { return gate.extent(axis) == 1 ? 0 : i; };
    for (index_t b = 0; b < global.extent(0); ++b)
      for (index_t h = 0; h < global.extent(1); ++h)
        for (index_t i = 0; i < global.extent(2); ++i) {
          A const weight = gate(along(0, b), along(1, h), along(2, i));
          for (index_t d = 0; d < global.extent(3); ++d)
            global(b, h, i, d) = static_cast<T>(weight * static_cast<A>(local(b, h, i, d)) +
                                                (1 - weight) * static_cast<A>(global(b, h, i, d)));
        }
  }
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
