// SPDX-License-Identifier: BSD-3-Clause
// Neighborhood attention on a line, an image or a volume: softmax attention in which each query sees a window of
// tokens around it, on every axis of the grid. policy/mask/neighborhood.hpp says which; it is NATTEN's definition.
//
//   query, key, value, output   as for softmax_attention, [batch, head, token, dimension], with the tokens of the grid
//                               row-major: token (y, x) of an image is y * width + x
//   extents                     of the grid, whose product is the number of tokens
//   axes                        window, stride, dilation, causal, ... of each axis
//
// Cost: 2 * (key dimension + value dimension) operations for each visible pair, and what a tile's windows do not share:
// tokens are taken in an order in which a tile of queries is a small box, and its keys a few long runs (policy/
// grid_order.hpp), which are gathered a block at a time. Nothing is permuted in memory. A line without dilation is read
// in place.
//
// Ali Hassani et al.: Neighborhood Attention Transformer, 2023; Faster Neighborhood Attention, 2024; Generalized
// Neighborhood Attention, 2025. Swin, HaloNet, MaxViT and axial attention are settings of it.
#pragma once

#include "../../call/plan.hpp"
#include "../../policy/score/grid_bias.hpp"
#include "../../policy/score/grid_embedding.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// An option of a neighborhood as the engine knows it: what is relative to the query's place becomes a score.
template <class A, int Axes, class Option>
decltype(auto) on_grid([[maybe_unused]] neighborhood_mask<Axes> const& mask, Option& option) {
  if constexpr (has_kind<option::relative_bias, Option>) {
    auto const table = raise<Axes + 1>(option.table);
    static_assert(std::same_as<typename decltype(table)::value_type, A>,
                  "attend: relative_bias holds the accumulation type: float, or double for tensors of double");
    return grid_bias<A, Axes>(table, mask);
  } else if constexpr (has_kind<option::relative_embeddings, Option>) {
    static_assert(std::same_as<std::remove_cvref_t<decltype(option.tables)>,
                               std::array<tensor_view<A const, 2>, array_size(Axes)>>,
                  "attend: relative_embeddings are one table for each axis, of the accumulation type");
    return grid_embedding<A, Axes>(option.tables, mask);
  } else {
    return (option);
  }
}

/// Checks the extents and windows of a grid, whose tokens are those of a call.
template <int Axes>
void check_grid(problem_shape const& shape, per_axis<index_t, Axes> const& extents,
                per_axis<neighborhood_axis, Axes> const& axes) {
  static_assert(1 <= Axes && Axes <= 3, "attend: neighborhoods have one, two or three axes");
  check_neighborhood<Axes>(extents, axes);
  index_t tokens = 1;
  for (index_t extent : extents)
    if (__builtin_mul_overflow(tokens, extent, &tokens)) tokens = std::numeric_limits<index_t>::max();
  check_extent("query", "tokens", shape.queries, tokens, "extents");
  check_extent("key", "tokens", shape.keys, tokens, "extents");
}

/// Calls run(order) with the order in which a grid's tokens are taken; on a line without dilation it is the tensors'.
template <int Axes, class Run>
void run_in_order(neighborhood_mask<Axes> const& mask, Run const& run) {
  if (Axes == 1 && mask.order().axes()[0].dilation == 1)
    run(in_order{});
  else
    run(mask.order());
}

}  // namespace detail

namespace grids {

/// Attends from each token of a grid to those around it. `Axes` is 1, 2 or 3; query, key, value and output have the
/// shapes of softmax_attention, and as many tokens as the grid. Windows, strides and dilations are in tokens. Options,
/// in any order: scale (1/sqrt(key dimension) unless given), normalizer, slots, head_gates, log_sum_exp, relative_bias
/// or relative_embeddings, count_tiles and executor.
///
/// Throws argument_error, before anything is written, where shapes, windows, memory or an option do not fit.
///
///     neighborhood_axis const axis{.window = 7, .stride = 1, .dilation = 2};
///     neighborhood_attention<2>(q, k, v, o, {56, 56}, {axis, axis});
template <int Axes, TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output,
          class... Options>
void neighborhood_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                            std::array<index_t, array_size(Axes)> const& extents,
                            std::array<neighborhood_axis, array_size(Axes)> const& axes, Options&&... options) {
  arithmetic_mode const arithmetic;
  using A = accumulation_t<element_of_t<Output>>;
  call::allows<option::scale, option::normalizer, option::slots, option::head_gates, option::log_sum_exp,
               option::relative_bias, option::relative_embeddings, option::tile_counts,
               option::executor>::check<Options...>();
  auto problem = call::problem_of(query, key, value, output);
  detail::check_grid<Axes>(problem.shape, extents, axes);
  detail::neighborhood_mask<Axes> const mask(extents, axes);
  auto plan = call::plan(problem, mask, detail::on_grid<A>(mask, options)...);
  detail::run_in_order(mask, [&](auto const& order) {
    engine::run_tiled(problem, engine::problem_rows(problem), plan.policies().in(order), plan.executor);
  });
}

}  // namespace grids

}  // namespace attend::inline ATTEND_TARGET
