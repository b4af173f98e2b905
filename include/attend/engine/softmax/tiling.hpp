// SPDX-License-Identifier: BSD-3-Clause
// How the tiled engine cuts a sequence: by the sequence's own shape alone, so that the same bits come out for any
// number of threads, whatever other sequences the call has, and however long the tensors are that it stands in.
#pragma once

#include "tile.hpp"

namespace attend::inline ATTEND_TARGET::engine {

struct tiling {
  index_t heads_together;  // query heads in a group
  index_t groups;          // groups of a sequence
  index_t unit_queries;    // tiles do not cross multiples of so many queries; 0: they may
  index_t block_keys;      // keys of a block
  index_t tiles_per_task = 1;
  index_t parts = 1;  // of whole blocks, that the keys are split into where there are fewer tasks than wanted
  index_t keys_of_part = 0;

  template <Element T>
  static tiling of(problem<T> const& p, detail::sequence const& sequence, tile_grain grain, bool values_in_keys) {
    using A = accumulation_t<T>;
    constexpr index_t lanes = simd::tile_lanes<A>;
    constexpr index_t size = sizeof(A);
    index_t const queries = sequence.asked();
    tiling t;
    t.heads_together = std::gcd(p.heads_together(), grain.heads);
    t.groups = p.shape.query_heads / t.heads_together;
    // Units that would not fill one vector are put together.
    t.unit_queries = grain.queries * divide_up(simd::width<A>, std::max<index_t>(grain.queries * t.heads_together, 1));
    index_t const dimensions = p.shape.key_dimension + p.shape.value_dimension;
    t.block_keys = keys_of_block<A>(values_in_keys ? p.shape.key_dimension : dimensions);
    // Tiles that share a block: as many as fit in a part of that cache, but enough tasks for some threads, with the
    // keys split into parts where that is needed.
    index_t const tile_bytes = dimensions * lanes * size;
    index_t const tiles = t.tiles_of<A>(queries, t.heads_together) * t.groups;
    t.tiles_per_task = std::clamp<index_t>(cache_for_tiles / std::max<index_t>(tile_bytes, 1), 1, max_tiles);
    index_t const max_parts = std::clamp<index_t>(sequence.keys / min_keys_of_part, 1, wanted_tasks);
    t.tiles_per_task = std::clamp<index_t>(tiles * max_parts / wanted_tasks, 1, t.tiles_per_task);
    // Tiles of one unit share their keys: a task holds whole units, or an equal part of one.
    index_t const of_unit = divide_up(t.unit_rows<A>(queries, t.heads_together), lanes);
    if (t.tiles_per_task >= of_unit)
      t.tiles_per_task = t.tiles_per_task / std::max<index_t>(of_unit, 1) * of_unit;
    else
      t.tiles_per_task = divide_up(of_unit, divide_up(of_unit, t.tiles_per_task));
    if (p.chunk_invariant) {
      t.keys_of_part = round_up(keys_of_invariant_part, t.block_keys);
      t.parts = std::max<index_t>(divide_up(sequence.keys, t.keys_of_part), 1);
      return t;
    }
    index_t const tasks = t.tasks_of_group<A>(queries) * t.groups;
    double const pairs =
        static_cast<double>(p.shape.query_heads) * static_cast<double>(queries) * static_cast<double>(sequence.keys);
    if (tasks > 0 && pairs * static_cast<double>(dimensions) >= min_split_work) {
      t.keys_of_part =
          round_up(std::max(divide_up(sequence.keys * tasks, wanted_tasks), min_keys_of_part), t.block_keys);
      t.parts = std::max<index_t>(divide_up(sequence.keys, t.keys_of_part), 1);
    }
    return t;
  }

  /// Keys and values of a block, which have so many numbers a token, should stay in the second-level cache beside the
  /// tiles.
  template <class A>
  static index_t keys_of_block(index_t dimensions) {
    index_t const row = std::max<index_t>(dimensions, 1) * static_cast<index_t>(sizeof(A));
    return std::clamp<index_t>(cache_for_block / row / 32 * 32, 32, max_block_keys);
  }

  /// Tasks of a group of heads.
  template <class A>
  index_t tasks_of_group(index_t queries) const {
    return divide_up(tiles_of<A>(queries, heads_together), tiles_per_task);
  }

  /// Rows that are cut into tiles on their own, the last of them excepted.
  template <class A>
  index_t unit_rows(index_t queries, index_t heads) const {
    return unit_queries > 0 ? std::min(unit_queries, queries) * heads : simd::tile_lanes<A>;
  }
  /// Tiles that a unit is cut into. Of a unit that is more than a task, whole tasks, if no tile comes down to a single
  /// vector by it: so that tiles of a task share their keys.
  template <class A>
  index_t parts_of_unit(index_t unit) const {
    index_t const tiles = divide_up(unit, simd::tile_lanes<A>), whole = round_up(tiles, tiles_per_task);
    bool const has_vectors = divide_up(unit, simd::width<A>) >= 2 * whole;
    return tiles > tiles_per_task && has_vectors ? whole : tiles;
  }
  /// Tiles of a group, some of which may be empty.
  template <class A>
  index_t tiles_of(index_t queries, index_t heads) const {
    index_t const unit = unit_rows<A>(queries, heads);
    return unit > 0 ? divide_up(queries * heads, unit) * parts_of_unit<A>(unit) : 0;
  }
  /// The rows of a tile: the vectors of a unit are dealt out evenly, since a tile of one vector is slow. Where there
  /// are no units, those of the last two tiles are.
  template <class A>
  key_range rows_of_tile(index_t tile, index_t queries, index_t heads) const {
    if (unit_queries == 0) {
      constexpr index_t lanes = simd::tile_lanes<A>;
      index_t const rows = queries * heads, tiles = tiles_of<A>(queries, heads);
      bool const one_left = tiles > 1 && divide_up(rows, simd::width<A>) % simd::register_vectors == 1;
      index_t const taken = one_left ? simd::width<A> : 0;
      if (tile == tiles - 2) return {tile * lanes, tile * lanes + lanes - taken};
      return {tile * lanes - (tile == tiles - 1 ? taken : 0), std::min((tile + 1) * lanes, rows)};
    }
    index_t const unit = unit_rows<A>(queries, heads), tiles = parts_of_unit<A>(unit);
    index_t const vectors = divide_up(unit, simd::width<A>), part = tile % tiles;
    index_t const start = tile / tiles * unit, end = std::min(start + unit, queries * heads);
    return {std::min(start + part * vectors / tiles * simd::width<A>, end),
            std::min(start + (part + 1) * vectors / tiles * simd::width<A>, end)};
  }

  static constexpr index_t cache_for_block = 256 * 1024;
  static constexpr index_t cache_for_tiles = 600 * 1024;
  static constexpr index_t max_tiles = 8;
  static constexpr index_t wanted_tasks = 16;
  static constexpr index_t min_keys_of_part = 512;
  /// Enough parts of a long sequence for some threads, and merging them is a thousandth of the work.
  static constexpr index_t keys_of_invariant_part = 2048;
  static constexpr double min_split_work = 2e6;  // multiplications that are worth two parts
};

}  // namespace attend::inline ATTEND_TARGET::engine
