// SPDX-License-Identifier: BSD-3-Clause
// Chooses for each region of queries in an image the regions of keys that it sees, and writes them to a block table, in
// which a region is a block.
//
//   choose_regions_by_means   the `top` regions z with the largest qbar_r . kbar_z, means over regions with all heads
//                             side by side: one choice for all heads
//   choose_region_by_pairs    the region z with the largest sum over y of q_ry . k_zy, where tokens y of both stand at
//                             the same place of it: a choice for each query head
//
// Ties go to the lower region.
//
// Cost: 2 * heads * dimension operations for each pair of regions, and for choose_region_by_pairs for each token of a
// region too.
#pragma once

#include "../core/head_loop.hpp"
#include "../engine/pooled_rows.hpp"
#include "../engine/softmax/problem.hpp"
#include "../policy/mask/block_table.hpp"
#include "../policy/order/region_order.hpp"
#include "row_products.hpp"

namespace attend::inline ATTEND_TARGET::detail {

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

/// Fills a table that was reset for regions of queries and keys, for one head of lists.
template <Element T, class E>
void choose_regions_by_means(engine::problem<T> const& p, image_regions const& regions, index_t top, block_table& table,
                             E& executor) {
  using A = accumulation_t<T>;
  index_t const count = regions.count(), channels = p.shape.query_heads * p.shape.key_dimension;
  scratch memory;
  A* const queries = memory.allocate<A>(p.shape.batches * count * channels);
  A* const keys = memory.allocate<A>(p.shape.batches * count * channels);
  region_means<T>(p.query, regions, queries, executor);
  region_means<T>(p.key, regions, keys, executor);
  for_heads(executor, p.shape.batches, 1, loop_cost::of(2 * count * count * channels), [&](index_t batch, index_t) {
    scratch memory_of_batch;
    auto* const chosen = memory_of_batch.allocate<std::int32_t>(top);
    A const* const means = queries + batch * count * channels;
    row_products(
        tensor_view<A const, 2>(keys + batch * count * channels, {count, channels}), count, row_order::by_count,
        [&](index_t r) { return means + r * channels; },
        [&](index_t r, A const* products) {
          index_t const found = top_products(products, count, top, chosen);
          for (index_t i = 0; i < found; ++i) table.add(batch * count + r, chosen[i]);
        });
  });
}

/// Fills a table that was reset for regions of queries and keys, with lists for all query heads.
template <Element T, class E>
void choose_region_by_pairs(engine::problem<T> const& p, image_regions const& query_regions,
                            image_regions const& key_regions, block_table& table, E& executor) {
  using A = accumulation_t<T>;
  index_t const area = query_regions.area(), regions = query_regions.count(), others = key_regions.count();
  index_t const dimension = p.shape.key_dimension, heads = p.shape.query_heads;
  loop_cost const of_head = loop_cost::of(2 * area * regions * others * dimension);
  for_heads(executor, p.shape.batches, heads, of_head, [&](index_t batch, index_t head) {
    if (others == 0) return;
    scratch memory;
    A* const sums = memory.allocate<A>(regions * others);
    A* const keys = memory.allocate<A>(others * dimension);
    std::fill_n(sums, regions * others, A(0));
    auto const query_rows = engine::rows_of_head(p.query, batch, head, 0);
    auto const key_rows = engine::rows_of_head(p.key, batch, head / (heads / p.shape.key_heads), 0);
    for (index_t y = 0; y < area; ++y) {
      for (index_t z = 0; z < others; ++z)
        simd::widen_row(key_rows.row(key_regions.token(z * area + y)), keys + z * dimension, dimension);
      row_products(
          tensor_view<A const, 2>(keys, {others, dimension}), regions, row_order::by_count,
          [&](index_t x) { return query_rows.row(query_regions.token(x * area + y)); },
          [&](index_t x, A const* products) {
            for (index_t z = 0; z < others; ++z) sums[x * others + z] += products[z];
          });
    }
    for (index_t x = 0; x < regions; ++x) {
      std::int32_t best;
      top_products(sums + x * others, others, 1, &best);
      table.add((batch * heads + head) * regions + x, best);
    }
  });
}

}  // namespace attend::inline ATTEND_TARGET::detail
