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

/// How many steps of the prefetch a tile takes.
inline index_t prefetch_steps_of_pairs(index_t keys, index_t value_dimension) {
  return divide_up(keys, simd::pair_tile) + divide_up(value_dimension, simd::pair_tile);
}

/// How often the products call beside().
inline index_t steps_of_keys(index_t keys, index_t dimension) {
  return keys / simd::pair_tile * (dimension / simd::pair_depth);
}
inline index_t steps_of_values(index_t keys, index_t dimension) {
  return dimension / simd::pair_tile * (keys / simd::pair_depth);
}

/// Calls multiply(number of groups, first row) for groups of 16 rows, as many at a time as there are registers for.
template <int Vectors, class Multiply>
ATTEND_INLINE void for_each_group(index_t rows, block_prefetch& prefetch, Multiply const& multiply) {
  for (index_t row = 0; row < rows;) {
    int groups = 1;
    if (row + pair_groups<Vectors> * simd::pair_tile <= rows) {
      groups = pair_groups<Vectors>;
      multiply.template operator()<pair_groups<Vectors>>(row);
    } else {
      multiply.template operator()<1>(row);
    }
    row += groups * simd::pair_tile;
    for (int step = 0; step < groups; ++step) prefetch.step();
  }
}

/// The logits, not scaled, of `count` keys, a multiple of 16. `query` holds the tile's queries in pairs, [dimension /
/// 2][lanes]. Calls stored(key) before the logits of further keys, from `key` on, are computed.
template <int Vectors, class Unit, class Beside, class Stored>
ATTEND_INLINE void multiply_pair_keys(Unit& unit, pair_rows::key_rows const& keys, index_t count,
                                      simd::pair_bits const* query, index_t dimension, float* logits,
                                      block_prefetch& prefetch, Beside const& beside, Stored const& stored) {
  using simd::pair_tile;
  constexpr index_t lanes = Vectors * simd::width<float>;
  simd::pair_operands work{};
  work.a_stride = keys.stride;
  work.a_tile = pair_tile * keys.stride;
  work.a_step = simd::pair_depth * static_cast<index_t>(sizeof(std::uint16_t));
  work.b = reinterpret_cast<char const*>(query);
  work.b_stride = work.c_stride = lanes * static_cast<index_t>(sizeof(float));
  work.b_step = pair_tile * work.b_stride;
  work.depth = dimension / simd::pair_depth;
  work.fresh = true;
  for_each_group<Vectors>(count, prefetch, [&]<int Groups>(index_t key) ATTEND_INLINE_LAMBDA {
    stored(key);
    work.a = keys.data + key * keys.stride;
    work.c = reinterpret_cast<char*>(logits + key * lanes);
    simd::multiply_tiles<Groups, Vectors>(unit, work, beside);
  });
}

/// Adds the values of `keys` keys, a multiple of 32, to `sum`, or writes it where it is `fresh`.
template <int Vectors, class Unit, class Beside>
ATTEND_INLINE void multiply_pair_values(Unit& unit, pair_rows::value_tiles const& values, index_t keys,
                                        simd::pair_bits const* weights, index_t dimension, float* sum, bool fresh,
                                        block_prefetch& prefetch, Beside const& beside) {
  using simd::pair_tile;
  constexpr index_t lanes = Vectors * simd::width<float>;
  simd::pair_operands work{};
  work.a_stride = pair_tile * static_cast<index_t>(sizeof(simd::pair_bits));
  work.a_step = pair_tile * work.a_stride;
  work.a_tile = values.tiles_of_column * work.a_step;
  work.b = reinterpret_cast<char const*>(weights);
  work.b_stride = work.c_stride = lanes * static_cast<index_t>(sizeof(float));
  work.b_step = pair_tile * work.b_stride;
  work.depth = keys / simd::pair_depth;
  work.fresh = fresh;
  for_each_group<Vectors>(dimension, prefetch, [&]<int Groups>(index_t column) ATTEND_INLINE_LAMBDA {
    work.a = reinterpret_cast<char const*>(values.first) + column / pair_tile * work.a_tile;
    work.c = reinterpret_cast<char*>(sum + column * lanes);
    simd::multiply_tiles<Groups, Vectors>(unit, work, beside);
  });
}

}  // namespace attend::inline ATTEND_TARGET::engine
