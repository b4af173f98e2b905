// SPDX-License-Identifier: BSD-3-Clause
// The queries of a tile, and the extra key-value slots that it processes before the keys of its sequence.
#pragma once

#include <span>

#include "../../policy/position/rotary.hpp"
#include "../../simd/pack.hpp"
#include "../../simd/pair_transpose.hpp"
#include "pair_parts.hpp"
#include "tile_step.hpp"
#include "tiling.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Rotates a tile's queries: to[lane][key dimension]. `angles` has room for a rotation.
template <Element T, class Position, class A>
void rotate_queries(problem<T> const& p, Position const& position, tile_rows<A> const& rows, A* to, A* angles) {
  decltype(position.query_rotation(rows.place_of(0), angles)) turn{};
  for (int lane = 0; lane < rows.count; ++lane, to += p.shape.key_dimension) {
    // Heads are innermost, so the rows of one query are consecutive lanes: they share one rotation.
    if (lane == 0 || rows.query[lane] != rows.query[lane - 1] || attend::detail::differs_by_head<Position>)
      turn = position.query_rotation(rows.place_of(lane), angles);
    turn.apply(row_of_lane(p.query, rows, lane), to, p.shape.key_dimension);
  }
}

/// Packs a tile's queries into `packed`, [key dimension][lanes]: scaled, and rotated if there is a rotation. `rotated`
/// then has room for the queries of a tile, and `angles` for a rotation.
template <Element T, class Position, class A = accumulation_t<T>>
void pack_queries(problem<T> const& p, [[maybe_unused]] Position const& position, tile<A>& tile, A* packed,
                  [[maybe_unused]] A* rotated = nullptr, [[maybe_unused]] A* angles = nullptr) {
  constexpr bool rotates = !std::same_as<Position, attend::detail::absent>;
  tile_rows<A> const& rows = tile.rows;
  index_t const dimension = p.shape.key_dimension;
  std::conditional_t<rotates, A, T> const* query[array_size(simd::tile_lanes<A>)] = {};
  if constexpr (rotates) rotate_queries(p, position, rows, rotated, angles);
  for (int lane = 0; lane < rows.count; ++lane)
    if constexpr (rotates)
      query[lane] = rotated + lane * dimension;
    else
      query[lane] = row_of_lane(p.query, rows, lane);
  // Lanes past the last row repeat it, so that the largest logit of a key over all lanes is that over the rows.
  if (rows.count > 0) std::fill(query + rows.count, query + tile.lanes(), query[rows.count - 1]);
  simd::pack_columns(query, tile.lanes(), dimension, packed, tile.lanes(), p.scale);
  tile.rows.packed_query = packed;
}

/// Packs the queries of rows for a matrix unit: [depth / 2][lanes], in pairs of elements, with all parts of a row
/// (pair_parts.hpp), not scaled. `rotated` and `angles` are as above.
template <Element T, class Position>
simd::pair_bits const* pack_query_pairs(problem<T> const& p, [[maybe_unused]] Position const& position,
                                        tile_rows<float> const& rows, int lanes, scratch& memory,
                                        [[maybe_unused]] float* rotated = nullptr,
                                        [[maybe_unused]] float* angles = nullptr) {
  constexpr index_t parts = pair_parts<Position>;
  index_t const dimension = p.shape.key_dimension, depth = parts * round_up(dimension, simd::pair_depth);
  auto* const packed = memory.allocate<simd::pair_bits>(depth / 2 * lanes);
  void const* query[array_size(simd::tile_lanes<float>)];
  scratch own;
  if (parts > 1 || !simd::reads_in_place<simd::pair_unit>(dimension)) {
    pair_part_writer<T> const writer(own, dimension);
    auto* to = own.allocate<std::uint16_t>(rows.count * depth);
    if constexpr (parts > 1) rotate_queries(p, position, rows, rotated, angles);
    for (int lane = 0; lane < rows.count; ++lane, to += depth) {
      query[lane] = to;
      if constexpr (parts > 1)
        writer.template write<parts>(rotated + lane * dimension, false, to);
      else
        writer.template write<parts>(row_of_lane(p.query, rows, lane), to);
    }
  } else {
    for (int lane = 0; lane < rows.count; ++lane) query[lane] = row_of_lane(p.query, rows, lane);
  }
  std::fill(query + rows.count, query + lanes, query[rows.count - 1]);
  simd::transpose_pairs(query, lanes, depth / 2, packed, lanes);
  simd::order_columns<simd::pair_unit>(packed, depth / 2, lanes, lanes);
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
