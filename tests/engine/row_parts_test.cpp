// SPDX-License-Identifier: BSD-3-Clause
// Parts of a problem's rows: each row is in one of them, whatever the groups, blocks and executors.
#include <attend/engine/softmax/row_parts.hpp>

#include <gtest/gtest.h>

#include <mutex>
#include <set>

#include "support/executors.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

engine::problem<float> problem_of(index_t batches, index_t heads, index_t queries) {
  problem_shape const shape{batches, heads, heads, heads, queries, 64, 8, 8, batches};
  return {{}, {}, shape};
}

TEST(RowParts, HaveEachRowOnce) {
  for (index_t queries : {0, 1, 5, 40})
    for (index_t group_size : {1, 2, 3, 6})
      for (index_t rows : {1, 4, 16, 1000})
        test::for_executors([&](auto&& executor, std::string const& name) {
          SCOPED_TRACE(name);
          auto const p = problem_of(2, 6, queries);
          std::mutex mutex;
          std::multiset<std::array<index_t, 3>> seen;
          engine::for_row_parts(p, group_size, rows, 1'000'000, executor, [&](engine::row_part const& part) {
            std::lock_guard lock(mutex);
            EXPECT_GT(part.count, 0);
            EXPECT_LE(part.count, rows);
            EXPECT_EQ(part.heads, group_size);
            EXPECT_EQ(part.first_query(), part(0).query);
            EXPECT_EQ(part.last_query(), part(part.count - 1).query);
            for (index_t i = 0; i < part.count; ++i) {
              EXPECT_EQ(part(i).head / group_size, part.first_head / group_size);
              seen.insert({part.batch, part(i).head, part(i).query});
            }
          });
          EXPECT_EQ(seen.size(), static_cast<std::size_t>(12 * queries));
          EXPECT_EQ((std::set<std::array<index_t, 3>>(seen.begin(), seen.end()).size()), seen.size());
        });
}

TEST(RowParts, TheLastComesFirst) {
  auto const p = problem_of(1, 2, 10);
  serial alone;
  std::vector<index_t> first;
  engine::for_row_parts(p, 2, 6, 64, alone, [&](engine::row_part const& part) { first.push_back(part.first); });
  EXPECT_EQ(first, (std::vector<index_t>{18, 12, 6, 0}));
}

TEST(RowParts, APartHasParts) {
  engine::row_part const whole{1, 4, 2, 6, 9};
  engine::row_part const end = whole.part(5, 100);
  EXPECT_EQ(end.count, 4);
  for (index_t i = 0; i < end.count; ++i) {
    EXPECT_EQ(end(i).head, whole(5 + i).head);
    EXPECT_EQ(end(i).query, whole(5 + i).query);
  }
}

TEST(BlockParts, LieInBlocksAndHaveEachTokenOnce) {
  auto const p = problem_of(1, 1, 100);
  for (key_range const tokens :
       {key_range{0, 0}, key_range{0, 1}, key_range{0, 50}, key_range{13, 50}, key_range{49, 50}})
    for (index_t block : {1, 7, 16, 50, 1000})
      for (index_t most : {1, 3, 16, 1000})
        test::for_executors([&](auto&& executor, std::string const& name) {
          SCOPED_TRACE(name);
          std::mutex mutex;
          std::multiset<index_t> seen;
          engine::for_block_parts(p, 1, tokens, block, most, 1'000'000, executor, [&](index_t number, key_range part) {
            std::lock_guard lock(mutex);
            EXPECT_LE(part.count(), most);
            for (index_t token = part.first; token < part.last; ++token) {
              EXPECT_EQ(token / block, number);
              seen.insert(token);
            }
          });
          ASSERT_EQ(seen.size(), static_cast<std::size_t>(tokens.count()));
          index_t token = tokens.first;
          for (index_t one : seen) ASSERT_EQ(one, token++);
        });
}

}  // namespace
}  // namespace attend
