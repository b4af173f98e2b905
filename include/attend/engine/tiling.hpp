// How the tiled engine cuts a problem: by its shape alone, so that the same bits come out for any number of threads.
#pragma once

#include "tile.hpp"

namespace attend::engine {

/// How a problem is cut, by its shape.
struct tiling {
  index_t heads_together;  // query heads in a group
  index_t groups;          // groups of a sequence
  index_t block_keys;      // keys of a block
  index_t tiles_per_task;
  index_t parts = 1;  // that the keys are split into
  index_t keys_of_part = 0;
  bool small;  // so little work that waking a thread would cost more

  template <Element T>
  static tiling of(problem<T> const& p, bool values_in_keys) {
    using A = accumulation_t<T>;
    constexpr index_t lanes = simd::tile_lanes<A>;
    constexpr index_t size = sizeof(A);
    tiling t;
    t.heads_together = p.heads_together();
    t.groups = p.shape.query_heads / t.heads_together;
    index_t const dimensions = p.shape.key_dimension + p.shape.value_dimension;
    index_t const row_dimensions = values_in_keys ? p.shape.key_dimension : dimensions;
    // Keys and values of a block should stay in the second-level cache beside the tiles.
    t.block_keys = std::clamp<index_t>(cache_for_block / std::max<index_t>(row_dimensions * size, 1) / 32 * 32, 32,
                                       most_block_keys);
    // Tiles that share a block: as many as fit in a part of that cache, but enough tasks for some threads, with the
    // keys split into parts where that is needed.
    index_t const tile_bytes = dimensions * lanes * size;
    index_t const rows = p.shape.queries * t.heads_together;
    index_t const tiles = divide_up(rows, lanes) * t.groups * std::max<index_t>(p.shape.batches, 1);
    t.tiles_per_task = std::clamp<index_t>(cache_for_tiles / std::max<index_t>(tile_bytes, 1), 1, most_tiles);
    index_t const most_parts = std::clamp<index_t>(p.shape.keys / least_keys_of_part, 1, wanted_tasks);
    t.tiles_per_task = std::clamp<index_t>(tiles * most_parts / wanted_tasks, 1, t.tiles_per_task);
    double const work = static_cast<double>(p.shape.batches) * static_cast<double>(p.shape.query_heads) *
                        static_cast<double>(p.shape.queries) * static_cast<double>(p.shape.keys) *
                        static_cast<double>(dimensions);
    t.small = work < 2e6;
    return t;
  }

  /// Splits the keys into parts of whole blocks if there are fewer than the wanted tasks.
  void split_keys(index_t tasks, index_t keys) {
    if (small || tasks <= 0) return;
    keys_of_part = round_up(std::max(divide_up(keys * tasks, wanted_tasks), least_keys_of_part), block_keys);
    parts = std::max<index_t>(divide_up(keys, keys_of_part), 1);
  }

  static constexpr index_t cache_for_block = 256 * 1024;
  static constexpr index_t cache_for_tiles = 600 * 1024;
  static constexpr index_t most_tiles = 8;
  static constexpr index_t wanted_tasks = 16;
  static constexpr index_t least_keys_of_part = 512;
};

}  // namespace attend::engine
