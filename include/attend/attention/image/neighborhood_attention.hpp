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

#include "../../policy/score/grid_bias.hpp"
#include "../../policy/score/grid_embedding.hpp"
#include "../softmax/softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

/// Options, in any order: scale, normalizer, slots, head_gates, log_sum_exp, relative_bias or relative_embeddings,
/// count_tiles, executor.
///
/// Throws argument_error, before anything is written, where shapes, windows, memory or an option do not fit.
template <int Axes, TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output,
          class... Options>
void neighborhood_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                            std::array<index_t, extend::array_size(Axes)> const& extents,
                            std::array<neighborhood_axis, extend::array_size(Axes)> const& axes, Options&&... options) {
  using T = element_of_t<Output>;
  static_assert(1 <= Axes && Axes <= 3, "attend: neighborhoods have one, two or three axes");
  static_assert(Element<T>, "attend: elements are float, double, Eigen::half or Eigen::bfloat16");
  static_assert(std::same_as<element_of_t<Query const>, T> && std::same_as<element_of_t<Key const>, T> &&
                    std::same_as<element_of_t<Value const>, T>,
                "attend: query, key, value and output must have one element type");
  static_assert((detail::is_option<Options, option::scale, option::normalizer, option::slots, option::head_gates,
                                   option::log_sum_exp, option::relative_bias, option::relative_embeddings,
                                   option::tile_counts, option::executor> &&
                 ...),
                "attend: unknown option for a neighborhood");
  static_assert(detail::count_of_kind<option::relative_bias, Options...> +
                        detail::count_of_kind<option::relative_embeddings, Options...> <=
                    1,
                "attend: relative_bias or relative_embeddings given twice");
  tensor_view<T const, 4> const q = extend::raise<4>(view_of(query)), k = extend::raise<4>(view_of(key));
  auto problem = detail::tensor_problem<T>(q, k, extend::raise<4>(view_of(value)), extend::raise<4>(view_of(output)));
  detail::check_neighborhood<Axes>(extents, axes);
  index_t tokens = 1;
  for (index_t extent : extents)
    if (__builtin_mul_overflow(tokens, extent, &tokens)) tokens = std::numeric_limits<index_t>::max();
  detail::check_extent("query", "tokens", q.extent(2), tokens, "extents");
  detail::check_extent("key", "tokens", k.extent(2), tokens, "extents");

  detail::neighborhood_mask<Axes> const mask(extents, axes);
  auto const run = [&](auto const& order) {
    auto const in_this_order = [&order](auto const& p, auto const& policies, auto& executor) {
      engine::run_tiled(p, engine::problem_rows(p), policies.in(order), executor);
    };
    if constexpr (detail::has_kind<option::relative_bias, Options...>) {
      detail::absent none;
      auto const table = extend::raise<Axes + 1>(detail::find_option<option::relative_bias>(none, options...).table);
      static_assert(std::same_as<typename decltype(table)::value_type, accumulation_t<T>>,
                    "attend: relative_bias holds the accumulation type: float, or double for tensors of double");
      detail::grid_bias<accumulation_t<T>, Axes> const bias(table, mask);
      detail::run_attention(problem, in_this_order, mask, bias, options...);
    } else if constexpr (detail::has_kind<option::relative_embeddings, Options...>) {
      detail::absent none;
      auto const& tables = detail::find_option<option::relative_embeddings>(none, options...).tables;
      static_assert(std::same_as<std::remove_cvref_t<decltype(tables)>,
                                 std::array<tensor_view<accumulation_t<T> const, 2>, extend::array_size(Axes)>>,
                    "attend: relative_embeddings are one table for each axis, of the accumulation type");
      detail::grid_embedding<accumulation_t<T>, Axes> const embedding(tables, mask);
      detail::run_attention(problem, in_this_order, mask, embedding, options...);
    } else {
      detail::run_attention(problem, in_this_order, mask, options...);
    }
  };
  // On a line without dilation the order is the tensors' own.
  if (Axes == 1 && mask.order().axes()[0].dilation == 1)
    run(extend::in_order{});
  else
    run(mask.order());
}

}  // namespace attend::inline ATTEND_TARGET
