// SPDX-License-Identifier: BSD-3-Clause
// Block tables built from rules and masks: what they list against the pairs one by one, and what attention over them
// is.
#include <attend/policy/mask/block_builders.hpp>
#include <attend/policy/mask/block_sparse.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/mask/window.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

bool lists(block_table const& table, index_t batch, index_t head, index_t query_block, index_t key_block) {
  auto const list = table.list(table.row(batch, head, query_block));
  return std::find(list.begin(), list.end(), key_block) != list.end();
}

/// Whether the table lists just the blocks with a visible pair.
void expect_tight(block_table const& table, reference::visible_function const& visible) {
  block_grid const& grid = table.grid();
  table.check();
  for (index_t head = 0; head < grid.heads; ++head)
    for (index_t i = 0; i < grid.query_blocks(); ++i)
      for (index_t j = 0; j < grid.key_blocks(); ++j) {
        bool shown = false;
        for (index_t q = i * grid.query_block; q < std::min((i + 1) * grid.query_block, grid.queries); ++q)
          for (index_t k = j * grid.key_block; k < std::min((j + 1) * grid.key_block, grid.keys); ++k)
            shown |= visible({0, head, q, k, grid.queries, grid.keys});
        EXPECT_EQ(lists(table, 0, head, i, j), shown) << "head " << head << ", blocks " << i << " and " << j;
      }
}

TEST(TableOfMask, ListsTheBlocksThatShowSomething) {
  for (auto [queries, keys] : {std::pair<index_t, index_t>{300, 300}, {100, 417}, {1, 1}, {130, 60}})
    for (auto [query_block, key_block] : {std::pair<index_t, index_t>{64, 64}, {100, 33}, {16, 200}, {1, 5}}) {
      block_grid const grid{1, 2, queries, keys, query_block, key_block};
      expect_tight(table_of_mask(grid, window{40, 3}), reference::sliding_window(40, 3));
      expect_tight(table_of_mask(grid, causal{}), reference::causal_bottom_right());
      // A mask of which nothing is known but its pairs.
      auto const far =
          mask([](auto const& at) { return (at.query_position - at.key_position) % 90 == 80 + at.head(); });
      expect_tight(table_of_mask(grid, far),
                   [](reference::place const& at) { return (at.position() - at.key) % 90 == 80 + at.head; });
    }
}

TEST(TableOfMask, BesideItsMaskChangesNothing) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 200, .keys = 333}, 3);
  window const narrow{50, 10};
  block_table const table = table_of_mask({1, 1, 200, 333, 64, 64}, narrow);
  EXPECT_LT(table.density(), 0.6);
  reference::options with;
  with.visible = reference::sliding_window(50, 10);
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, block_sparse{table} & narrow), with));
}

TEST(ShardedBlocks, FollowTheFormula) {
  for (auto [queries, keys] : {std::pair<index_t, index_t>{512, 512}, {128, 512}, {500, 500}})
    for (index_t heads : {1, 4, 8})
      for (sharding const settings : {sharding{1, 1, 0, 0}, {2, 4, 0, 0}, {1, 8, 3, 1}, {0, 3, 1, 0}, {1, 16, 0, 2}}) {
        block_table const table = sharded_blocks({1, heads, queries, keys, 64, 64}, settings);
        table.check();
        index_t const step = settings.stride / heads > 1 ? settings.stride / heads : 1, shift = (keys - queries) / 64;
        for (index_t h = 0; h < heads; ++h)
          for (index_t i = 0; i < table.grid().query_blocks(); ++i)
            for (index_t j = 0; j < table.grid().key_blocks(); ++j)
              EXPECT_EQ(lists(table, 0, h, i, j),
                        j <= i + shift && (h < settings.dense_heads || i + shift - j < settings.local ||
                                           (j + h * step + settings.offset) % settings.stride == 0));
      }
}

TEST(ShardedBlocks, WithStrideOneAreCausal) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 300, .keys = 300}, 4);
  block_table const table = sharded_blocks({1, 2, 300, 300, 64, 64}, {.local = 1, .stride = 1});
  reference::options with;
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, block_sparse{table} & causal{}), with));
}

TEST(ShardedBlocks, OfAllHeadsTogetherSeeEverything) {
  block_table const table = sharded_blocks({1, 8, 1024, 1024, 64, 64}, {.local = 1, .stride = 8});
  for (index_t i = 0; i < 16; ++i)
    for (index_t j = 0; j <= i; ++j) {
      bool seen = false;
      for (index_t h = 0; h < 8; ++h) seen |= lists(table, 0, h, i, j);
      EXPECT_TRUE(seen) << i << ", " << j;
    }
}

TEST(ShardedBlocks, RefuseWhatIsWrong) {
  block_grid const grid{1, 2, 64, 64, 16, 16};
  EXPECT_THROW(sharded_blocks(grid, {.local = -1}), argument_error);
  EXPECT_THROW(sharded_blocks(grid, {.stride = 0}), argument_error);
  EXPECT_THROW(sharded_blocks(grid, {.offset = -1}), argument_error);
  EXPECT_THROW(sharded_blocks(grid, {.dense_heads = -1}), argument_error);
}

}  // namespace
}  // namespace attend
