// SPDX-License-Identifier: BSD-3-Clause
// The two products of a tile and keys of a block on a matrix unit (simd/pair_products.hpp):
//
//   logits[key][lanes]     = keys . queries
//   sum[dimension][lanes] += values^T . weights
//
// Each calls beside() after every tile of keys or values and its products. Vectors can compute there while the unit
// does: it takes 16 cycles for a product, of which there are as many as the tile has vectors of lanes. For every 16
// keys, or 16 columns of values, they take a step of the prefetch.
#pragma once

#include "pair_block.hpp"
#include "tile.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The most groups of 16 rows, of which the sums with `Vectors` columns are in flight.
template <int Vectors>
inline constexpr int pair_groups = Vectors == 1   ? 4
                                   : Vectors == 2 ? 2
                                                  : 1;

/// How many steps of the prefetch a product takes.
inline index_t prefetch_steps_of_pairs(index_t rows) { return divide_up(rows, simd::pair_tile); }

/// How often a product calls beside().
inline index_t steps_of_pairs(index_t rows, index_t depth) {
  return prefetch_steps_of_pairs(rows) * (depth / simd::pair_depth);
}

/// c[row][lanes] += a . b, or = if `fresh`, for `rows` rows, a multiple of 16; b is [depth / 2][lanes]. Calls
/// before(row) when the rows before `row` are computed.
template <int Vectors, class Unit, class Beside, class Before>
ATTEND_INLINE void multiply_pair_rows(Unit& unit, simd::pair_matrix const& a, index_t rows, simd::pair_bits const* b,
                                      index_t depth, float* c, bool fresh, block_prefetch& prefetch,
                                      Beside const& beside, Before const& before) {
  constexpr index_t lanes = Vectors * simd::width<float>;
  auto const multiply = [&]<int Groups>(index_t row) ATTEND_INLINE_LAMBDA {
    before(row);
    simd::multiply_tiles<Groups, Vectors>(unit, {a.from(row, 0), b, c + row * lanes, lanes, lanes, depth, fresh},
                                          beside);
    for (int group = 0; group < Groups; ++group) prefetch.step();
    return row + Groups * simd::pair_tile;
  };
  constexpr int most = pair_groups<Vectors>;
  index_t row = 0;
  while (row + most * simd::pair_tile <= rows) row = multiply.template operator()<most>(row);
  while (row < rows) row = multiply.template operator()<1>(row);
}

}  // namespace attend::inline ATTEND_TARGET::engine
