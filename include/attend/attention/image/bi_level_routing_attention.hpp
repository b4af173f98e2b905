// SPDX-License-Identifier: BSD-3-Clause
// Bi-level routing attention (BiFormer): each region of an image sees the tokens of the k regions that its mean query
// likes best.
//
//   qbar_r, kbar_r = means of queries and keys over region r, all heads side by side
//   A_rz           = qbar_r . kbar_z, no scale
//   I_r            = the k regions z with the largest A_rz; ties to the lower one
//   o_i            = softmax attention of q_i, i in region r, to the tokens of the regions in I_r
//
// One choice serves all heads, by means over regions: it finds what a region is about, not one token of it. The scale
// is 1 / sqrt(heads * dimension) unless given: that of all channels, not of a head's. The depthwise convolution of the
// values that the paper adds is the caller's.
//
//   query, key, value, output   as for softmax_attention with equal head counts, tokens of an image row-major
//
// Cost: 2 * heads * dimension operations for each pair of regions; then the work of the chosen pairs. Regions are runs
// of the order in which tokens are taken, and gathered a block at a time.
//
// Lei Zhu et al.: BiFormer: Vision Transformer with Bi-Level Routing Attention, 2023.
#pragma once

#include "../../call/plan.hpp"
#include "../../engine/pooled_rows.hpp"
#include "../../engine/softmax/row_products.hpp"
#include "../../policy/mask/block_sparse.hpp"
#include "../../policy/order/region_order.hpp"
#include "../../policy/score/scale.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// The means of all regions, [batch][region][heads * dimension].
template <Element T, class E>
void region_means(tensor_view<T const, 4> const& tokens, image_regions const& regions, accumulation_t<T>* to,
                  E& executor) {
  auto const members = [&](index_t region, auto const& add) {
    for (index_t j = 0; j < regions.area(); ++j) add(regions.token(region * regions.area() + j));
  };
  engine::mean_pools(tokens, regions.count(), regions.area(), members, executor,
                     [&](index_t batch, index_t head, index_t region) {
                       return to + ((batch * regions.count() + region) * tokens.extent(1) + head) * tokens.extent(3);
                     });
}

}  // namespace detail

namespace systems {

/// Lets the queries of each region see the `top` regions whose mean key fits best. Query, key, value and output have
/// the shapes of softmax_attention, with equal head counts and as many queries as keys. `table` takes the chosen
/// regions; its storage is kept from call to call. Options: scale (1/sqrt(heads * dimension) unless given),
/// log_sum_exp, count_tiles and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, the
/// regions do not fill the image, or `top` is less than 1.
///
///     bi_level_routing_attention(q, k, v, o, table, image_regions{{56, 56}, {8, 8}}, 4);
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void bi_level_routing_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                                block_table& table, image_regions const& regions, index_t top, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  auto problem = call::problem_of(query, key, value, output);
  problem_shape const& shape = problem.shape;
  detail::check_extent("key", "heads", shape.key_heads, shape.query_heads, "query");
  regions.check("image_regions", shape.queries, "query");
  detail::check_extent("key", "tokens", shape.keys, shape.queries, "query");
  if (top < 1) fail("top", "expected at least 1 region, got ", top);
  index_t const count = regions.count(), channels = shape.query_heads * shape.key_dimension;
  top = std::min(top, std::max<index_t>(count, 1));
  // A call that is refused leaves the table as it was.
  call::plan<call::system_options>(problem, options...);
  table.reset({shape.batches, 1, shape.queries, shape.keys, regions.area(), regions.area()}, top);

  auto& executor = call::executor_of(options...);
  scratch memory;
  A* const queries = memory.allocate<A>(shape.batches * count * channels);
  A* const keys = memory.allocate<A>(shape.batches * count * channels);
  detail::region_means<T>(problem.query, regions, queries, executor);
  detail::region_means<T>(problem.key, regions, keys, executor);
  detail::for_heads(executor, shape.batches, 1, detail::loop_cost::of(2 * count * count * channels),
                    [&](index_t batch, index_t) {
                      scratch memory_of_batch;
                      auto* const chosen = memory_of_batch.allocate<std::int32_t>(top);
                      A const* const means = queries + batch * count * channels;
                      engine::row_products(
                          tensor_view<A const, 2>(keys + batch * count * channels, {count, channels}), count,
                          engine::row_order::by_count, [&](index_t r) { return means + r * channels; },
                          [&](index_t r, A const* likes) {
                            index_t const found = engine::top_products(likes, count, top, chosen);
                            for (index_t i = 0; i < found; ++i) table.add(batch * count + r, chosen[i]);
                          });
                    });

  block_sparse const mask{table};
  auto plan = call::plan(problem, mask, options...);
  if constexpr (!detail::has_kind<option::scale, Options...>)
    problem.scale = static_cast<A>(detail::usual_scale(channels));
  engine::run_tiled(problem, engine::problem_rows(problem), plan.policies().in(region_order{regions, regions}),
                    plan.executor);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
