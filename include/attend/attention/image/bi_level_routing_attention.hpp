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
#include "../../policy/mask/block_sparse.hpp"
#include "../../policy/order/region_order.hpp"
#include "../../policy/score/scale.hpp"
#include "../../select/region_choice.hpp"

namespace attend::inline ATTEND_TARGET {

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

  detail::choose_regions_by_means(problem, regions, top, table, call::executor_of(options...));
  block_sparse const mask{table};
  auto plan = call::plan(problem, mask, options...);
  if constexpr (!detail::has_kind<option::scale, Options...>)
    problem.scale = static_cast<A>(detail::usual_scale(channels));
  engine::run_tiled(problem, engine::problem_rows(problem), plan.policies().in(region_order{regions, regions}),
                    plan.executor);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
