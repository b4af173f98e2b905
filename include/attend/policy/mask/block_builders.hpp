// SPDX-License-Identifier: BSD-3-Clause
// Block tables made from what is known before the data is: a rule for blocks, any mask, and the sharded pattern.
//
//   table_of_blocks(grid, rule)            the rule says of every pair of blocks whether it is listed
//   table_of_mask(grid, mask)              the blocks in which the mask shows at least one pair
//   sharded_blocks(grid, sharding)         a local window of blocks and every stride-th block, shifted from head to
//                                          head
//
// Xihui Lin, Yunan Zhang, Suyu Ge, Liliang Ren, Barun Patra, Vishrav Chaudhary, Hao Peng, Xia Song: Efficient LLM
// Training and Serving with Heterogeneous Context Sharding among Attention Heads, 2024 (S2-Attention, DKernel).
#pragma once

#include "block_table.hpp"
#include "mask.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Lists the pairs of blocks for which rule(batch, head, query_block, key_block) is true; it is asked once for each
/// pair.
///
///     block_grid const grid{.heads = 8, .queries = 4096, .keys = 4096};
///     auto const rule = [](index_t, index_t, index_t i, index_t j) { return (i - j) % 4 == 0; };
///     block_table const blocks = table_of_blocks(grid, rule);
template <class Rule>
block_table table_of_blocks(block_grid const& grid, Rule&& rule) {
  block_table table(grid);
  for (index_t batch = 0; batch < grid.batches; ++batch)
    for (index_t head = 0; head < grid.heads; ++head)
      for (index_t query = 0; query < grid.query_blocks(); ++query) {
        for (index_t key = 0; key < grid.key_blocks(); ++key)
          if (rule(batch, head, query, key)) table.add(key);
        table.end_row();
      }
  return table;
}

/// Lists the blocks in which the mask shows something: with that mask beside it, attention over the table is attention
/// under the mask. The mask is asked as if the grid's batches and heads were the call's.
///
///     auto const blocks = table_of_mask({.heads = 8, .queries = 4096, .keys = 4096}, window{512, 0});
///     softmax_attention(q, k, v, o, block_sparse{blocks} & window{512, 0});
template <Mask M>
block_table table_of_mask(block_grid const& grid, M const& mask) {
  block_table table(grid);
  extend::problem_shape const shape{grid.batches, grid.heads, grid.heads, grid.heads,  grid.queries,
                                    grid.keys,    0,          0,          grid.batches};
  mask.check(shape);
  extend::tile_rows<float> rows;
  rows.shape = &shape;
  rows.first_query_token = rows.first_key_token = 0;
  rows.queries = grid.queries;
  rows.keys = grid.keys;
  auto const shows = [&](extend::key_range range) {
    extend::visibility const sight = mask.classify(rows, range);
    return sight == extend::visibility::some
               ? detail::classify_pairs(rows, range, detail::bind_mask(mask, rows, range)) != extend::visibility::none
               : sight == extend::visibility::all;
  };
  std::vector<bool> listed(static_cast<std::size_t>(grid.key_blocks()));
  for (index_t batch = 0; batch < grid.batches; ++batch)
    for (index_t head = 0; head < grid.heads; ++head)
      for (index_t block = 0; block < grid.query_blocks(); ++block) {
        rows.sequence = rows.batch = batch;
        index_t const end = std::min((block + 1) * grid.query_block, grid.queries);
        std::fill(listed.begin(), listed.end(), false);
        for (index_t query = block * grid.query_block; query < end; query += extend::tile_rows<float>::lanes) {
          rows.set(query, std::min<index_t>(extend::tile_rows<float>::lanes, end - query), &head, 1);
          for (extend::key_range run = detail::next_run(mask, rows, 0); !run.empty();
               run = detail::next_run(mask, rows, run.last))
            // Bound masks hold the data of so many keys at most.
            for (index_t first = run.first, last; first < run.last; first = last) {
              index_t const key_block = first / grid.key_block;
              last = std::min({(key_block + 1) * grid.key_block, run.last, first + extend::max_block_keys});
              auto at = listed[static_cast<std::size_t>(key_block)];
              if (!at) at = shows({first, last});
            }
        }
        for (index_t key_block = 0; key_block < grid.key_blocks(); ++key_block)
          if (listed[static_cast<std::size_t>(key_block)]) table.add(key_block);
        table.end_row();
      }
  return table;
}

/// With I the block of a query block's last position and J a key block: J <= I, and I - J < local or
/// (J + head * step + offset) mod stride = 0, step = max(1, stride / heads). The first `dense_heads` heads see all J <=
/// I. With as many heads as the stride, the heads together see everything. To be combined with causal{}.
struct sharding {
  index_t local = 1;
  index_t stride = 1;
  index_t offset = 0;
  index_t dense_heads = 0;

  /// Throws argument_error, which names `argument`, where a setting is out of range.
  void check(char const* argument) const {
    if (local < 0) extend::fail(argument, "expected a local window of at least 0 blocks, got ", local);
    if (stride < 1) extend::fail(argument, "expected a stride of at least 1, got ", stride);
    if (offset < 0) extend::fail(argument, "expected an offset of at least 0, got ", offset);
    if (dense_heads < 0) extend::fail(argument, "expected at least 0 dense heads, got ", dense_heads);
  }
  /// Whether one of `heads` heads sees key block J <= I.
  bool shows(index_t heads, index_t head, index_t query_block, index_t key_block) const {
    index_t const step = std::max<index_t>(1, stride / std::max<index_t>(heads, 1));
    return head < dense_heads || query_block - key_block < local || (key_block + head * step + offset) % stride == 0;
  }
};

/// Lists a local window of blocks and every stride-th block, shifted from head to head. Throws argument_error where a
/// setting is out of range.
///
///     auto const shards = sharded_blocks({.heads = 32, .queries = 8192, .keys = 8192}, {.local = 4, .stride = 16});
///     softmax_attention(q, k, v, o, block_sparse{shards} & causal{});
inline block_table sharded_blocks(block_grid const& grid, sharding const& settings) {
  settings.check("sharded_blocks");
  return table_of_blocks(grid, [&](index_t, index_t head, index_t query_block, index_t key_block) {
    index_t const last = std::min((query_block + 1) * grid.query_block, grid.queries) - 1 + grid.keys - grid.queries;
    return key_block * grid.key_block <= last && settings.shows(grid.heads, head, last / grid.key_block, key_block);
  });
}

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
