// SPDX-License-Identifier: BSD-3-Clause
// Block tables: filled row after row or each row on its own, refilled without new storage, refused where they are
// wrong.
#include <gtest/gtest.h>
#include <attend/policy/mask/block_table.hpp>

#include <string>

#include "support/expect_error.hpp"

namespace attend {
using namespace options;
using namespace selection;
using namespace extend;

namespace {

using test::expect_error;

std::vector<index_t> list_of(block_table const& table, index_t row) {
  auto const list = table.list(row);
  return {list.begin(), list.end()};
}

constexpr block_grid grid{2, 3, 100, 130, 64, 32};

TEST(BlockTable, CountsBlocksAndRows) {
  EXPECT_EQ(grid.query_blocks(), 2);
  EXPECT_EQ(grid.key_blocks(), 5);
  EXPECT_EQ(grid.rows(), 12);
  block_table const table(grid);
  EXPECT_EQ(table.row(1, 2, 1), 11);
  // One batch serves all.
  EXPECT_EQ(block_table(block_grid{1, 3, 100, 130, 64, 32}).row(7, 2, 1), 5);
}

TEST(BlockTable, IsFilledRowAfterRow) {
  block_table table(grid);
  for (index_t row = 0; row < grid.rows(); ++row) {
    for (index_t block = 0; block < row % 4; ++block) table.add(block);
    table.end_row();
  }
  table.check();
  EXPECT_EQ(table.rows(), 12);
  EXPECT_EQ(table.pairs(), 18);
  EXPECT_DOUBLE_EQ(table.density(), 18. / 60);
  EXPECT_EQ(list_of(table, 4), std::vector<index_t>());
  EXPECT_EQ(list_of(table, 7), (std::vector<index_t>{0, 1, 2}));
}

TEST(BlockTable, IsFilledInAnyOrder) {
  block_table table(grid, 2);
  for (index_t row = grid.rows() - 1; row >= 0; --row) {
    table.add(row, row % 3);
    if (row % 2) table.add(row, 4);
  }
  table.check();
  EXPECT_EQ(table.pairs(), 18);
  EXPECT_EQ(list_of(table, 5), (std::vector<index_t>{2, 4}));
  EXPECT_EQ(list_of(table, 6), (std::vector<index_t>{0}));
}

TEST(BlockTable, KeepsItsStorage) {
  block_table table(grid, 5);
  for (index_t row = 0; row < grid.rows(); ++row) table.add(row, 4);
  auto const* const before = table.list(0).data();
  table.reset(grid, 3);
  EXPECT_EQ(table.pairs(), 0);
  EXPECT_EQ(table.list(0).data(), before);
  table.reset(grid);
  for (index_t row = 0; row < grid.rows(); ++row) table.add(row % 5), table.end_row();
  EXPECT_EQ(table.list(0).data(), before);
}

TEST(BlockTable, IsEmptyWithoutTokens) {
  block_table table;
  table.check();
  EXPECT_EQ(table.density(), 0);
  table.reset({1, 2, 0, 0, 64, 64}, 7);
  table.check();
  EXPECT_EQ(table.rows(), 0);
}

TEST(BlockTable, RefusesWhatIsWrong) {
  expect_error("block_table: expected blocks of 1 to 536870911 tokens, got 0",
               [] { block_table table(block_grid{1, 1, 8, 8, 0, 4}); });
  expect_error("block_table: expected extents from 0 to 536870911, got -1",
               [] { block_table table(block_grid{1, 1, -1, 8, 4, 4}); });
  expect_error("block_table: expected a capacity of at least 0, got -2",
               [] { block_table table(block_grid{1, 1, 8, 8, 4, 4}, -2); });
  block_table table(block_grid{1, 1, 8, 8, 4, 4});
  expect_error("block_table: expected 2 rows, got 0", [&] { table.check(); });
  table.reset({1, 1, 8, 8, 4, 4}, 1);
  table.add(1, 1);
  expect_error("block_table: expected at most 1 key blocks in row 1, got one more", [&] { table.add(1, 1); });
  table.reset({1, 1, 8, 8, 4, 4}, 2);
  table.add(1, 1), table.add(1, 1);
  expect_error("block_table: expected ascending key blocks below 2 in row 1, got 1 after 1", [&] { table.check(); });
  table.reset({1, 1, 8, 8, 4, 4}, 2);
  table.add(0, 2);
  expect_error("block_table: expected ascending key blocks below 2 in row 0, got 2 after -1", [&] { table.check(); });
  table.reset({1, 1, 8, 8, 4, 4}, 2);
  table.add(0, -1);
  expect_error("block_table: expected ascending key blocks below 2 in row 0, got -1 after -1", [&] { table.check(); });
  expect_error("block_table: expected a row of 2, got 2", [&] { table.add(2, 0); });
  expect_error("block_table: expected a row of 2, got -1", [&] { table.add(-1, 0); });
}

TEST(BlockTable, RefusesKeyBlocksThatAreNoNumbersOfItsKind) {
  // They must not become small ones.
  index_t const far = (index_t{1} << 32) + 1;
  std::string const refusal = "block_table: expected ascending key blocks below 2 in row 0, got -1 after -1";
  block_table table(block_grid{1, 1, 4, 8, 4, 4});
  table.add(far), table.end_row();
  expect_error(refusal, [&] { table.check(); });
  table.reset({1, 1, 4, 8, 4, 4}, 2);
  table.add(0, far);
  expect_error(refusal, [&] { table.check(); });
}

TEST(BlockTable, RefusesKeyBlocksInNoRow) {
  block_table table(block_grid{1, 1, 4, 8, 4, 4});
  table.add(0), table.end_row(), table.add(1);
  expect_error("block_table: expected all key blocks in rows that are ended, got 1 behind them",
               [&] { table.check(); });
}

TEST(BlockTable, RefusesMoreListsThanMemoryHas) {
  index_t const most = token_limit - 1;
  expect_error(
      "block_table: expected lists that fit in memory, got 536870911 x 536870911 x 536870911 (batch, head, query "
      "block) of 0 key blocks",
      [&] { block_table table(block_grid{most, most, most, 1, 1, 1}); });
  expect_error(
      "block_table: expected lists that fit in memory, got 1 x 1 x 8 (batch, head, query block) of "
      "9223372036854775807 key blocks",
      [&] { block_table table(block_grid{1, 1, 8, 1, 1, 1}, std::numeric_limits<index_t>::max()); });
}

TEST(BlockTable, AGridKnowsTheKeyBlocksOfABlockOfQueries) {
  for (index_t queries : {1, 7, 12, 13})
    for (index_t keys : {0, 1, 5, 12, 20})
      for (index_t query_block : {1, 3, 8})
        for (index_t key_block : {1, 4, 5}) {
          block_grid const grid{1, 1, queries, keys, query_block, key_block};
          for (index_t block = 0; block < grid.query_blocks(); ++block) {
            key_range expected;
            for (index_t query = block * query_block; query < std::min((block + 1) * query_block, queries); ++query)
              if (index_t const position = query + keys - queries; position >= 0)
                expected = hull(expected, {position / key_block, position / key_block + 1});
            key_range const got = grid.own_key_blocks(block);
            EXPECT_EQ(got.count(), expected.count()) << queries << " " << keys << " " << query_block << " " << block;
            if (!expected.empty()) {
              EXPECT_EQ(got.first, expected.first);
            }
          }
        }
}

}  // namespace
}  // namespace attend
