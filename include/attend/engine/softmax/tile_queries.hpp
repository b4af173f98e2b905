// SPDX-License-Identifier: BSD-3-Clause
// The queries of a tile, and the extra key-value slots that it processes before the keys of its sequence.
#pragma once

#include <span>

#include "../../policy/position/rotary.hpp"
#include "../../simd/pack.hpp"
#include "tile_step.hpp"
#include "tiling.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Packs a tile's queries into `packed`, [key dimension][lanes]: scaled, and rotated if there is a rotation. `rotated`
/// then has room for the queries of a tile, and `angles` for a rotation.
template <Element T, class Position, class A = accumulation_t<T>>
void pack_queries(problem<T> const& p, [[maybe_unused]] Position const& position, tile<A>& tile, A* packed,
                  [[maybe_unused]] A* rotated = nullptr, [[maybe_unused]] A* angles = nullptr) {
  constexpr bool rotates = !std::same_as<Position, attend::detail::absent>;
  tile_rows<A> const& rows = tile.rows;
  index_t const dimension = p.shape.key_dimension;
  std::conditional_t<rotates, A, T> const* query[array_size(simd::tile_lanes<A>)] = {};
  if constexpr (rotates) {
    rotation<A> turn{};
    for (int lane = 0; lane < rows.count; ++lane) {
      // Heads are innermost, so the rows of one query are consecutive lanes: they share one rotation.
      if (lane == 0 || rows.query[lane] != rows.query[lane - 1])
        turn = position.query_rotation(rows.batch, rows.query_token(lane), rows.position[lane], angles);
      turn.apply(row_of_lane(p.query, rows, lane), rotated + lane * dimension, dimension);
      query[lane] = rotated + lane * dimension;
    }
  } else {
    for (int lane = 0; lane < rows.count; ++lane) query[lane] = row_of_lane(p.query, rows, lane);
  }
  // Lanes past the last row repeat it, so that the largest logit of a key over all lanes is that over the rows.
  if (rows.count > 0) std::fill(query + rows.count, query + tile.lanes(), query[rows.count - 1]);
  simd::pack_columns(query, tile.lanes(), dimension, packed, tile.lanes(), p.scale);
  tile.rows.packed_query = packed;
}

/// Packs a tile's queries as they are for a matrix unit: [key dimension / 2][lanes], in pairs of elements. The
/// dimension is padded with zeros to a multiple of 32.
template <Element T>
simd::pair_bits const* pack_query_pairs(problem<T> const& p, tile<float> const& tile, scratch& memory) {
  index_t const pairs = round_up(p.shape.key_dimension, simd::pair_depth) / 2;
  simd::pair_bits* const packed = memory.allocate<simd::pair_bits>(pairs * tile.lanes());
  void const* query[array_size(simd::tile_lanes<float>)];
  for (int lane = 0; lane < tile.lanes(); ++lane)
    query[lane] = row_of_lane(p.query, tile.rows, std::min(lane, tile.rows.count - 1));
  scratch own;
  if (!simd::reads_in_place<simd::pair_unit>(p.shape.key_dimension)) {
    auto* to = own.allocate<std::uint16_t>(tile.rows.count * 2 * pairs);
    for (int lane = 0; lane < tile.rows.count; ++lane, to += 2 * pairs) {
      simd::copy_row<simd::pair_unit>(query[lane], p.shape.key_dimension, to);
      query[lane] = to;
    }
    std::fill(query + tile.rows.count, query + tile.lanes(), query[tile.rows.count - 1]);
  }
  simd::transpose_pairs(query, tile.lanes(), pairs, packed, tile.lanes());
  return packed;
}

/// Adds the slots to tiles of query heads that share the key and value head of `first_head`. The tiles' queries must be
/// packed.
template <Element T, class A = accumulation_t<T>>
void add_slots(problem<T> const& p, any_policies<A> const& call, index_t batch, index_t first_head,
               std::span<tile<A>> tiles, A* logits, block_prefetch& prefetch) {
  scratch memory;
  index_t const most = std::min(tiling::keys_of_block<A>(p.shape.key_dimension + p.shape.value_dimension), p.slots());
  tensor_rows<T> const slots = slot_rows(p, batch, first_head);
  key_block<tensor_rows<T>> block(memory, slots,
                                  {most, p.shape.key_dimension, p.shape.value_dimension, tiles.size() > 1});
  for (index_t first = 0; first < p.slots(); first += most) {
    key_range const range = block.move_to(first, std::min(most, p.slots() - first));
    for (tile<A>& tile : tiles) {
      tile_step<A> step(tile, block, range, p.shape.key_dimension, logits, prefetch, p.slots_have_values,
                        p.chunk_invariant);
      softmax_step<tile_step<A>, A>(step, call, false, nullptr);
    }
  }
}

}  // namespace attend::inline ATTEND_TARGET::engine
