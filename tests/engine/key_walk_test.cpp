// SPDX-License-Identifier: BSD-3-Clause
// Which keys the tiled engine takes: every run that a mask tells a tile of, once and in order, in blocks that are not
// too long; and where a position's row is among those that a store keeps.
#include <attend/cache/paged.hpp>
#include <attend/cache/rolling.hpp>
#include <attend/engine/softmax/key_rows.hpp>
#include <attend/engine/softmax/key_walk.hpp>

#include "support/stores.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace extend;

namespace {

/// The runs of each tile, which is known by its sequence.
struct told_runs {
  std::vector<std::vector<key_range>> of_tile;
  index_t keys;

  template <class T>
  key_range bounds(tile_rows<T> const&) const {
    return {0, keys};
  }
  template <class T>
  key_range next(tile_rows<T> const& rows, index_t from) const {
    for (key_range const run : of_tile[static_cast<std::size_t>(rows.sequence)])
      if (run.last > from) return {std::max(run.first, from), run.last};
    return {keys, keys};
  }
};

/// The keys of all runs within a part, one by one.
std::vector<index_t> keys_of(std::vector<key_range> const& runs, key_range part) {
  std::vector<index_t> keys;
  for (key_range const run : runs)
    for (index_t key = run.first; key < run.last; ++key)
      if (part.first <= key && key < part.last) keys.push_back(key);
  return keys;
}

TEST(KeyWalk, DealsOutEveryRunOnce) {
  std::mt19937 engine(1);
  auto const from_to = [&](index_t least, index_t most) {
    return std::uniform_int_distribution<index_t>(least, most)(engine);
  };
  for (int trial = 0; trial < 300; ++trial) {
    index_t const tiles = from_to(1, 4), keys = from_to(0, 500), block_keys = from_to(1, engine::max_block_keys);
    index_t const first = from_to(0, keys);
    key_range const part{first, from_to(first, keys)};
    told_runs runs{{}, keys};
    std::vector<engine::tile<float>> rows(static_cast<std::size_t>(tiles));
    for (index_t t = 0; t < tiles; ++t) {
      rows[static_cast<std::size_t>(t)].rows.sequence = t;
      auto& own = runs.of_tile.emplace_back();
      for (index_t key = from_to(0, 50); key < keys;) {
        own.push_back({key, std::min(keys, key + from_to(1, trial % 2 ? 10 : 300))});
        key = own.back().last + from_to(1, trial % 3 ? 5 : 400);
      }
    }
    scratch memory;
    engine::key_walk<float, told_runs> walk(memory, runs, rows.data(), tiles, part, block_keys);
    std::vector<std::vector<index_t>> taken(static_cast<std::size_t>(tiles));
    index_t end = part.first;
    for (key_range wanted = walk.next(); !wanted.empty(); wanted = walk.next()) {
      ASSERT_GE(wanted.first, end);
      ASSERT_LE(wanted.count(), block_keys);
      // Now and then rows are not as many.
      index_t const most = trial % 5 ? block_keys : from_to(1, block_keys);
      key_range const block = walk.next_block({wanted.first, wanted.first + most});
      ASSERT_EQ(block.first, wanted.first);
      ASSERT_GT(block.last, block.first);
      ASSERT_LE(block.count(), most);
      for (auto const& [tile, piece] : walk.pieces()) {
        ASSERT_FALSE(piece.empty());
        ASSERT_EQ(intersection(piece, block).count(), piece.count());
        for (index_t key = piece.first; key < piece.last; ++key) taken[static_cast<std::size_t>(tile)].push_back(key);
      }
      end = block.last;
    }
    for (std::size_t t = 0; t < taken.size(); ++t) EXPECT_EQ(taken[t], keys_of(runs.of_tile[t], part)) << "tile " << t;
  }
}

TEST(KeyWalk, ForgetsKeysThatAreNotThere) {
  told_runs const runs{{{{0, 5}, {20, 30}, {60, 70}}, {{10, 25}}}, 100};
  std::vector<engine::tile<float>> rows(2);
  for (index_t t = 0; t < 2; ++t) rows[static_cast<std::size_t>(t)].rows.sequence = t;
  scratch memory;
  engine::key_walk<float, told_runs> walk(memory, runs, rows.data(), 2, {0, 65}, 64);
  walk.forget_before(22);
  key_range const block = walk.next();
  EXPECT_EQ(block.first, 22);
  walk.next_block({22, 86});
  std::vector<std::vector<index_t>> taken(2);
  for (auto const& [tile, piece] : walk.pieces())
    for (index_t key = piece.first; key < piece.last; ++key) taken[static_cast<std::size_t>(tile)].push_back(key);
  EXPECT_EQ(taken[0], keys_of(runs.of_tile[0], {22, 65}));
  EXPECT_EQ(taken[1], keys_of(runs.of_tile[1], {22, 65}));
  EXPECT_TRUE(walk.next().empty());
}

/// Against the rows themselves, one by one.
template <class Cache>
void expect_rows_found(Cache const& cache, index_t sequence) {
  engine::source_rows<Cache> const rows{&cache, sequence, 0};
  auto const stored = test::stored_rows(cache, sequence, 0);
  index_t const count = rows.stored();
  ASSERT_EQ(count, static_cast<index_t>(stored.size()));
  auto const position = [&](index_t row) { return stored[static_cast<std::size_t>(row)].position; };
  for (index_t wanted = 0; wanted < cache.size(sequence) + 2; ++wanted) {
    index_t row = 0;
    while (row < count && position(row) < wanted) ++row;
    EXPECT_EQ(rows.first_row_from(wanted), row) << "position " << wanted << " of " << cache.size(sequence);
  }
  for (index_t first = 0; first < count; ++first)
    for (index_t most : {1, 2, 7, 100}) {
      index_t group_size = 1;
      while (group_size < most && first + group_size < count &&
             position(first + group_size) == position(first) + group_size)
        ++group_size;
      EXPECT_EQ(rows.consecutive(first, most), group_size) << "row " << first << " of " << count;
    }
}

TEST(KeyRows, AreFoundByPositionInAnyStore) {
  cache_shape const shape{2, 1, 3, 2};
  test::token_tensors<float> const tensors(1, 90, 3, 2, 1);
  rolling_cache<float> rolling(shape, {3, 8}, 4);
  paged_cache<float> paged(shape, {.pages = 60, .page_tokens = 4});
  // The pages of two sequences alternate.
  for (index_t size = 0; size < 90; size += 3)
    for (index_t sequence : {0, 1}) {
      tensors.append_to(rolling, sequence, size, 3);
      tensors.append_to(paged, sequence, size, 3);
      if (size % 7 == 0) {
        expect_rows_found(rolling, sequence);
        expect_rows_found(paged, sequence);
      }
    }
}

}  // namespace
}  // namespace attend
