// SPDX-License-Identifier: BSD-3-Clause
// How the tiled engine cuts a sequence into tiles, blocks of keys and tasks. The cut depends on the shape of the
// sequence alone, so that its results have the same bits for any number of threads, whatever other sequences the call
// has, and whatever padding the tensors have.
#pragma once

#include "../../core/machine.hpp"
#include "tile.hpp"

namespace attend::inline ATTEND_TARGET::engine {

struct tiling {
  index_t heads_per_group;  // query heads in a group, whose rows share tiles
  index_t groups;           // groups of query heads
  index_t unit_queries;     // queries of a unit: no tile holds rows of two units; 0: there are no units
  index_t block_keys;       // keys of a block
  index_t tiles_per_task = 1;
  index_t parts = 1;  // the number of parts, of whole blocks, that the keys are split into for want of tasks
  index_t keys_of_part = 0;

  /// `query_bytes` is the size of an element of packed queries.
  template <Element T>
  static tiling of(problem<T> const& p, detail::sequence const& sequence, tile_grain grain, bool values_in_keys,
                   index_t most_block_keys = max_block_keys, index_t query_bytes = sizeof(accumulation_t<T>)) {
    using A = accumulation_t<T>;
    constexpr index_t lanes = simd::tile_lanes<A>;
    attend::detail::machine const& machine = attend::detail::machine::here();
    index_t const queries = sequence.asked();
    tiling t;
    t.heads_per_group = std::gcd(p.heads_per_group(), grain.heads);
    t.groups = p.shape.query_heads / t.heads_per_group;
    // A unit holds several grains of the mask where one grain would not fill a vector.
    t.unit_queries = grain.queries * divide_up(simd::width<A>, std::max<index_t>(grain.queries * t.heads_per_group, 1));
    index_t const dimensions = p.shape.key_dimension + p.shape.value_dimension;
    t.block_keys = keys_of_block<A>(values_in_keys ? p.shape.key_dimension : dimensions, most_block_keys);
    // The tiles of a task, which share each block: as many as fit in a part of the level-2 cache, but so few that there
    // are tasks for several threads, with the keys split into parts where that is needed.
    index_t const tile_bytes =
        (p.shape.key_dimension * query_bytes + p.shape.value_dimension * index_t{sizeof(A)}) * lanes;
    index_t const tiles = t.tiles_of<A>(queries, t.heads_per_group) * t.groups;
    t.tiles_per_task = std::clamp<index_t>(machine.tile_bytes / std::max<index_t>(tile_bytes, 1), 1, max_tiles);
    index_t const max_parts = std::clamp<index_t>(sequence.keys / min_keys_of_part, 1, wanted_tasks);
    t.tiles_per_task = std::clamp<index_t>(tiles * max_parts / wanted_tasks, 1, t.tiles_per_task);
    // The tiles of one unit have the same visible keys, so a task holds whole units, or an equal part of one.
    index_t const of_unit = divide_up(t.unit_rows<A>(queries, t.heads_per_group), lanes);
    if (t.tiles_per_task >= of_unit)
      t.tiles_per_task = t.tiles_per_task / std::max<index_t>(of_unit, 1) * of_unit;
    else
      t.tiles_per_task = even_part(of_unit, t.tiles_per_task);
    // Without units all tasks of a group have as many tiles, or nearly: a task of a single tile would read each block
    // for that tile alone.
    if (t.unit_queries == 0) t.tiles_per_task = even_part(t.tiles_of<A>(queries, t.heads_per_group), t.tiles_per_task);
    if (p.chunk_invariant) {
      t.keys_of_part = round_up(keys_of_invariant_part, t.block_keys);
      t.parts = std::max<index_t>(divide_up(sequence.keys, t.keys_of_part), 1);
      return t;
    }
    index_t const tasks = t.tasks_of_group<A>(queries) * t.groups;
    double const pairs =
        static_cast<double>(p.shape.query_heads) * static_cast<double>(queries) * static_cast<double>(sequence.keys);
    if (tasks > 0 && pairs * static_cast<double>(dimensions) >= static_cast<double>(machine.part_work)) {
      t.keys_of_part =
          round_up(std::max(divide_up(sequence.keys * tasks, wanted_tasks), min_keys_of_part), t.block_keys);
      t.parts = std::max<index_t>(divide_up(sequence.keys, t.keys_of_part), 1);
    }
    return t;
  }

  /// The number of keys of a block. Its keys and values, which have `dimensions` elements for each token, should stay
  /// in the level-2 cache beside the tiles.
  template <class A>
  static index_t keys_of_block(index_t dimensions, index_t most = max_block_keys) {
    index_t const row = std::max<index_t>(dimensions, 1) * static_cast<index_t>(sizeof(A));
    return std::clamp<index_t>(attend::detail::machine::here().block_bytes / row / 32 * 32, 32, most);
  }

  /// The number of tasks of a group of heads.
  template <class A>
  index_t tasks_of_group(index_t queries) const {
    return divide_up(tiles_of<A>(queries, heads_per_group), tiles_per_task);
  }

  /// The number of rows of a unit, which is cut into tiles by itself; the last unit may have fewer. Without units, the
  /// rows of a tile.
  template <class A>
  index_t unit_rows(index_t queries, index_t heads) const {
    return unit_queries > 0 ? std::min(unit_queries, queries) * heads : simd::tile_lanes<A>;
  }
  /// The number of tiles that a unit of `unit` rows is cut into. A unit with more tiles than a task is cut into whole
  /// tasks, so that the tiles of a task share their keys, unless a tile would then have a single vector.
  template <class A>
  index_t parts_of_unit(index_t unit) const {
    index_t const tiles = divide_up(unit, simd::tile_lanes<A>), whole = round_up(tiles, tiles_per_task);
    bool const has_vectors = divide_up(unit, simd::width<A>) >= 2 * whole;
    return tiles > tiles_per_task && has_vectors ? whole : tiles;
  }
  /// The number of tiles of a group, some of which may be empty.
  template <class A>
  index_t tiles_of(index_t queries, index_t heads) const {
    index_t const unit = unit_rows<A>(queries, heads);
    return unit > 0 ? divide_up(queries * heads, unit) * parts_of_unit<A>(unit) : 0;
  }
  /// The rows of a tile. The vectors of a unit are distributed evenly over its tiles, since a tile of one vector keeps
  /// too few sums in flight. Without units all tiles are full but the first one, or the first two: under a causal mask
  /// those have the fewest keys.
  template <class A>
  key_range rows_of_tile(index_t tile, index_t queries, index_t heads) const {
    if (unit_queries == 0) {
      index_t const rows = queries * heads, tiles = tiles_of<A>(queries, heads);
      // The number of vectors that are missing, of which the first two tiles share two.
      index_t const missing = tiles * simd::register_vectors - divide_up(rows, simd::width<A>);
      index_t const less = tiles > 1 && missing == 2 ? 1 : missing;
      auto const start = [&](index_t at) {
        index_t const vectors = at * simd::register_vectors - (at == 0 ? 0 : at == 1 ? less : missing);
        return std::min(vectors * simd::width<A>, rows);
      };
      return {start(tile), start(tile + 1)};
    }
    index_t const unit = unit_rows<A>(queries, heads), tiles = parts_of_unit<A>(unit);
    index_t const vectors = divide_up(unit, simd::width<A>), part = tile % tiles;
    index_t const start = tile / tiles * unit, end = std::min(start + unit, queries * heads);
    return {std::min(start + part * vectors / tiles * simd::width<A>, end),
            std::min(start + (part + 1) * vectors / tiles * simd::width<A>, end)};
  }

  /// The size of the parts, at most `most`, into which `count` things are divided evenly.
  static constexpr index_t even_part(index_t count, index_t most) {
    return count > 0 ? divide_up(count, divide_up(count, most)) : most;
  }

  static constexpr index_t max_tiles = 8;
  static constexpr index_t wanted_tasks = 16;
  static constexpr index_t min_keys_of_part = 512;
  /// Parts of this length give a long sequence enough tasks for several threads, and merging them is a thousandth of
  /// the work.
  static constexpr index_t keys_of_invariant_part = 2048;
};

}  // namespace attend::inline ATTEND_TARGET::engine
