// SPDX-License-Identifier: BSD-3-Clause
// How queries are cut into tiles: every row once and in order, no tile wider than the registers, and none of a single
// vector where two can share; narrow tiles first; a unit of many tiles is whole tasks.
#include <gtest/gtest.h>

#include <attend/engine/softmax/tiling.hpp>

namespace attend {
using namespace options;
using namespace extend;

namespace {

void expect_cut(index_t unit_queries, index_t queries, index_t heads) {
  engine::tiling cut{};
  cut.unit_queries = unit_queries;
  index_t const lanes = simd::tile_lanes<float>, width = simd::width<float>, rows = queries * heads;
  index_t const unit = unit_queries > 0 ? std::min(unit_queries, queries) * heads : rows;
  index_t at = 0, tiles = cut.tiles_of<float>(queries, heads);
  for (index_t t = 0; t < tiles; ++t) {
    key_range const tile = cut.rows_of_tile<float>(t, queries, heads);
    if (tile.empty()) continue;
    EXPECT_EQ(tile.first, at) << "tile " << t << " of " << rows << " rows";
    EXPECT_LE(tile.count(), lanes) << "tile " << t << " of " << rows << " rows";
    EXPECT_EQ(tile.first / unit, (tile.last - 1) / unit) << "tile " << t << " of " << rows << " rows";
    if (unit > lanes && rows % unit == 0) {
      EXPECT_GT(divide_up(tile.count(), width), 1) << "tile " << t << " of " << rows << " rows";
    }
    at = tile.last;
  }
  EXPECT_EQ(at, rows);
}

TEST(Tiling, TakesEveryRowOnce) {
  for (index_t queries : {0, 1, 15, 16, 17, 47, 48, 49, 64, 65, 96, 97, 112, 113, 145, 200, 1000})
    for (index_t heads : {1, 3, 8})
      for (index_t unit : {0, 7, 16, 64, 200})
        if (queries > 0 || unit == 0) expect_cut(unit, queries, heads);
}

TEST(Tiling, PutsNarrowTilesFirst) {
  engine::tiling cut{};
  index_t const width = simd::width<float>, lanes = simd::tile_lanes<float>;
  for (index_t vectors = 1; vectors < 20; ++vectors) {
    index_t const queries = vectors * width, tiles = cut.tiles_of<float>(queries, 1);
    for (index_t t = 0; t < tiles; ++t) {
      index_t const count = cut.rows_of_tile<float>(t, queries, 1).count();
      if (t > 1 || (t == 1 && vectors % 3 != 1)) {
        EXPECT_EQ(count, lanes) << "tile " << t;
      }
    }
  }
}

TEST(Tiling, DividesEvenly) {
  EXPECT_EQ(engine::tiling::even_part(11, 5), 4);
  EXPECT_EQ(engine::tiling::even_part(8, 8), 8);
  EXPECT_EQ(engine::tiling::even_part(9, 8), 5);
  EXPECT_EQ(engine::tiling::even_part(0, 8), 8);
}

TEST(Tiling, CutsLongUnitsIntoWholeTasks) {
  index_t const lanes = simd::tile_lanes<float>;
  for (index_t max_tiles : {3, 5, 8})
    for (index_t unit_tiles : {9, 11, 16, 22}) {
      engine::tiling cut{};
      index_t const tiles_per_task = divide_up(unit_tiles, divide_up(unit_tiles, max_tiles));
      cut.tiles_per_task = tiles_per_task;
      cut.unit_queries = unit_tiles * lanes;
      index_t const queries = 3 * cut.unit_queries, tiles = cut.tiles_of<float>(queries, 1);
      index_t at = 0;
      for (index_t t = 0; t < tiles; ++t) {
        key_range const tile = cut.rows_of_tile<float>(t, queries, 1);
        key_range const first_of_task = cut.rows_of_tile<float>(t / tiles_per_task * tiles_per_task, queries, 1);
        EXPECT_EQ(tile.first, at);
        EXPECT_GE(tile.count(), 2 * simd::width<float>);
        EXPECT_EQ(tile.first / cut.unit_queries, first_of_task.first / cut.unit_queries) << "tile " << t;
        at = tile.last;
      }
      EXPECT_EQ(at, queries);
    }
}

}  // namespace
}  // namespace attend
