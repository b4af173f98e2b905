// SPDX-License-Identifier: BSD-3-Clause
// A gate over blocks: a block of queries and one of keys are a pooled row each, which a matrix projects; the logits of
// the gate are the products of both.
//
//   gate_rows    rows of the blocks, pooled, projected and rotated for a position
//   block_gate   the list of each block of queries: its own blocks, and of those before them the ones with the largest
//                logits, or those whose weight under a softmax is above a threshold
//
// Cost: tokens are read once, 2 * pooled numbers * gate dimension operations for each block, and 2 * gate dimension for
// each pair of blocks.
#pragma once

#include <algorithm>
#include <cmath>

#include "../core/head_loop.hpp"
#include "../engine/softmax/projection.hpp"
#include "../policy/mask/block_table.hpp"
#include "../policy/position/rotary.hpp"
#include "../policy/score/scale.hpp"
#include "../simd/mean.hpp"
#include "row_products.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// The gate's rows for the blocks of some heads: to [task][block][gate dimension], task = batch * heads + head. `pool`
/// writes what a block is made of; `position` says where it begins.
template <Element T, class Rotary, class E, class Pool, class Position>
void gate_rows(tensor_view<T const, 4> const& tokens, tensor_view<accumulation_t<T> const, 3> const& weight,
               Rotary const& rotation, index_t block, E& executor, Pool const& pool, Position const& position,
               accumulation_t<T>* to) {
  using A = accumulation_t<T>;
  constexpr index_t lanes = simd::tile_lanes<A>;
  index_t const heads = tokens.extent(1), blocks = divide_up(tokens.extent(2), block);
  index_t const pooled = weight.extent(1), dimension = weight.extent(2);
  loop_cost const of_block =
      loop_cost::of(2 * pooled * dimension, block * tokens.extent(3) * static_cast<index_t>(sizeof(T)));
  for_heads(executor, tokens.extent(0), heads, blocks * of_block, [&](index_t batch, index_t head) {
    scratch memory;
    engine::projection<A> const product(
        memory, {weight.data() + head * weight.stride(0), {pooled, dimension}, {weight.stride(1), 1}}, lanes);
    A* const rows = memory.allocate<A>(lanes * pooled);
    A* const spare = memory.allocate<A>(dimension);
    A* const angles = memory.allocate<A>(rotation.buffer_size());
    A const* from[array_size(lanes)];
    A* written[array_size(lanes)];
    for (index_t first = 0; first < blocks; first += lanes) {
      index_t const count = std::min(lanes, blocks - first);
      for (index_t i = 0; i < lanes; ++i) {
        from[i] = rows + std::min(i, count - 1) * pooled;
        written[i] = i < count ? to + ((batch * heads + head) * blocks + first + i) * dimension : spare;
        if (i >= count) continue;
        index_t const token = (first + i) * block;
        pool(engine::rows_of_head(tokens, batch, head, token), std::min(block, tokens.extent(2) - token),
             rows + i * pooled);
      }
      product.multiply(from, written);
      for (index_t i = 0; i < count; ++i)
        rotation.rotation_at(token_place::on_all_axes(batch, position(first + i)), angles)
            .apply(written[i], written[i], dimension);
    }
  });
}

/// What the gate sees of a block of keys: its maxima, minima and means, one behind the other.
template <class Rows, class A>
void pool_extremes_and_mean(Rows const& rows, index_t count, index_t width, A* to) {
  simd::widen_row(rows.row(0), to, width);
  std::copy_n(to, width, to + width);
  for (index_t j = 1; j < count; ++j)
    for (index_t c = 0; c < width; ++c) {
      A const x = static_cast<A>(rows.row(j)[c]);
      to[c] = std::max(to[c], x);
      to[width + c] = std::min(to[width + c], x);
    }
  simd::mean_of_rows<std::remove_cvref_t<decltype(*rows.row(0))>>([&](index_t j) { return rows.row(j); }, count, width,
                                                                  to + 2 * width);
}

/// Chooses blocks of keys for blocks of queries, by the gate's rows of both.
template <class A>
struct block_gate {
  block_grid grid;
  index_t key_heads;
  index_t dimension;  // of the gate
  index_t top;        // 0: by the threshold
  double threshold;

  /// The largest number of blocks in a list.
  index_t most() const { return top > 0 ? std::min(std::max<index_t>(top, 2), grid.key_blocks()) : grid.key_blocks(); }

  /// queries [batch, query head, block, gate dimension], keys [batch, key head, block, gate dimension].
  template <class E>
  void fill(block_table& table, A const* queries, A const* keys, E& executor) const {
    index_t const query_blocks = grid.query_blocks(), key_blocks = grid.key_blocks();
    if (key_blocks == 0) return;
    loop_cost const of_head = loop_cost::of(2 * query_blocks * key_blocks * dimension);
    for_heads(executor, grid.batches, grid.heads, of_head, [&](index_t batch, index_t head) {
      index_t const key_head = batch * key_heads + head / (grid.heads / key_heads);
      index_t const first_row = (batch * grid.heads + head) * query_blocks;
      scratch memory;
      auto* const chosen = memory.allocate<std::int32_t>(most());
      row_products(
          tensor_view<A const, 2>(keys + key_head * key_blocks * dimension, {key_blocks, dimension}), query_blocks,
          row_order::own_bits, [&](index_t i) { return queries + (first_row + i) * dimension; },
          [&](index_t i, A const* logits) { list(i, logits, first_row + i, chosen, table); });
    });
  }

 private:
  /// The list of block i of the queries: its own blocks of keys, and what the gate chooses before them.
  void list(index_t i, A const* logits, index_t row, std::int32_t* chosen, block_table& table) const {
    key_range const own = grid.own_key_blocks(i);
    if (own.empty()) return;
    if (top > 0) {
      index_t const found = top_products(logits, own.first, std::max<index_t>(top - own.count(), 0), chosen);
      for (index_t c = 0; c < found; ++c) table.add(row, chosen[c]);
    } else {
      A const scale = static_cast<A>(usual_scale(dimension));
      A const largest = *std::max_element(logits, logits + own.last);
      A weight_sum = 0;
      for (index_t block = 0; block < own.last; ++block) weight_sum += std::exp((logits[block] - largest) * scale);
      // Logits are compared: a weight may be too small for its type, and is above a threshold of 0 all the same.
      A const least = largest + std::log(static_cast<A>(threshold) * weight_sum) / scale;
      for (index_t block = 0; block < own.first; ++block)
        if (logits[block] > least) table.add(row, block);
    }
    for (index_t block = own.first; block < own.last; ++block) table.add(row, block);
  }
};

}  // namespace attend::inline ATTEND_TARGET::detail
