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

#include "../engine/projection.hpp"
#include "../policy/mask/block_sparse.hpp"
#include "../policy/region_order.hpp"
#include "../policy/score/scale.hpp"
#include "../select/top_k.hpp"
#include "../simd/mean.hpp"
#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// to [regions][heads * dimension]: the means of the regions of a batch.
template <Element T>
void region_means(tensor_view<T const, 4> const& tokens, index_t batch, image_regions const& regions,
                  accumulation_t<T>* to) {
  for (index_t r = 0; r < regions.count(); ++r)
    for (index_t head = 0; head < tokens.extent(1); ++head, to += tokens.extent(3))
      simd::mean_of_rows<T>([&](index_t j) { return &tokens(batch, head, regions.token(r * regions.area() + j), 0); },
                            regions.area(), tokens.extent(3), to);
}

}  // namespace detail

/// `table` takes what is chosen; its storage is kept from call to call. Options: scale, log_sum_exp, count_tiles,
/// executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, the
/// regions do not fill the image, or `top` is less than 1.
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void bi_level_routing_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                                block_table& table, image_regions const& regions, index_t top, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  static_assert(
      (detail::is_option<Options, option::scale, option::log_sum_exp, option::tile_counts, option::executor> && ...),
      "attend: bi_level_routing_attention takes scale, log_sum_exp, count_tiles and an executor");
  auto problem = detail::tensor_problem<T>(raise<4>(view_of(query)), raise<4>(view_of(key)), raise<4>(view_of(value)),
                                           raise<4>(view_of(output)));
  problem_shape const& shape = problem.shape;
  detail::check_extent("key", "heads", shape.key_heads, shape.query_heads, "query");
  regions.check("image_regions", shape.queries, "query");
  detail::check_extent("key", "tokens", shape.keys, shape.queries, "query");
  if (top < 1) fail("top", "expected at least 1 region, got ", top);
  index_t const count = regions.count(), channels = shape.query_heads * shape.key_dimension;
  top = std::min(top, std::max<index_t>(count, 1));
  // A call that is refused leaves the table as it was.
  detail::run_attention(problem, [](auto const&, auto const&, auto&) {}, options...);
  table.reset({shape.batches, 1, shape.queries, shape.keys, regions.area(), regions.area()}, top);

  serial alone;
  detail::parallel_for(detail::find_option<option::executor>(alone, options...), shape.batches, [&](index_t batch) {
    scratch memory;
    A* const queries = memory.take<A>(count * channels);
    A* const keys = memory.take<A>(count * channels);
    detail::region_means<T>(problem.query, batch, regions, queries);
    detail::region_means<T>(problem.key, batch, regions, keys);
    engine::projection<A> const product(memory, tensor_view<A const, 2>(keys, {count, channels}), count);
    auto** const from = memory.take<A const*>(count);
    auto** const to = memory.take<A*>(count);
    A* const likes = memory.take<A>(count * count);
    for (index_t r = 0; r < count; ++r) {
      from[r] = queries + r * channels;
      to[r] = likes + r * count;
    }
    product.multiply_transposed(from, to);
    auto* const score = memory.take<float>(count);
    auto* const chosen = memory.take<std::int32_t>(top);
    for (index_t r = 0; r < count; ++r) {
      std::copy_n(to[r], count, score);
      index_t const found = top_k(score, count, top, chosen);
      for (index_t i = 0; i < found; ++i) table.add(batch * count + r, chosen[i]);
    }
  });

  block_sparse const mask{table};
  detail::with_scale_or(
      detail::usual_scale(channels),
      [&](auto&&... all) {
        detail::run_attention(
            problem,
            [&](auto const& p, auto const& steering, auto& executor) {
              engine::run_tiled(p, engine::problem_rows(p), steering.in(region_order{regions, regions}), executor);
            },
            mask, all...);
      },
      options...);
}

}  // namespace attend::inline ATTEND_TARGET
