// SPDX-License-Identifier: BSD-3-Clause
// Loops over heads, and over runs of their tokens: each is visited once, and runs are cut by the shape alone.
#include <attend/core/head_loop.hpp>

#include <gtest/gtest.h>

#include <array>
#include <mutex>
#include <set>
#include <string>

#include "support/executors.hpp"

namespace attend {
using namespace extend;

namespace {

using detail::loop_cost;

TEST(HeadLoop, VisitsEachHeadOnce) {
  for (loop_cost const cost : {loop_cost{}, loop_cost::of(100'000'000)})
    test::for_executors([&](auto&& executor, std::string const& name) {
      SCOPED_TRACE(name);
      std::mutex mutex;
      std::multiset<std::array<index_t, 2>> seen;
      detail::for_heads(executor, 3, 5, cost, [&](index_t batch, index_t head) {
        std::lock_guard lock(mutex);
        seen.insert({batch, head});
      });
      ASSERT_EQ(seen.size(), 15u);
      for (index_t batch = 0; batch < 3; ++batch)
        for (index_t head = 0; head < 5; ++head) EXPECT_EQ(seen.count({batch, head}), 1u) << batch << ", " << head;
    });
}

TEST(HeadLoop, CutsTokensIntoRunsByTheShapeAlone) {
  for (index_t tokens : {1, 7, 1000})
    for (loop_cost const cost : {loop_cost{}, loop_cost::of(0, 4096), loop_cost::of(100'000'000)}) {
      std::multiset<std::array<index_t, 4>> first;
      test::for_executors([&](auto&& executor, std::string const& name) {
        SCOPED_TRACE(name);
        std::mutex mutex;
        std::multiset<std::array<index_t, 4>> runs;
        detail::for_tokens(executor, 2, 3, tokens, cost, [&](index_t batch, index_t head, index_t from, index_t to) {
          std::lock_guard lock(mutex);
          runs.insert({batch, head, from, to});
        });
        // In this order they follow each other.
        index_t head = 0, token = 0;
        for (auto const& [b, h, from, to] : runs) {
          ASSERT_EQ(b * 3 + h, head);
          ASSERT_EQ(from, token);
          ASSERT_GT(to, from);
          ASSERT_LE(to, tokens);
          token = to == tokens ? 0 : to;
          head += to == tokens;
        }
        EXPECT_EQ(head, 6);
        if (first.empty()) first = runs;
        EXPECT_EQ(runs, first);
      });
    }
}

TEST(HeadLoop, RunsOfDearTokensAreShort) {
  serial alone;
  index_t dear = 0, cheap = 0;
  detail::for_tokens(alone, 1, 1, 1000, loop_cost::of(0, 1'000'000), [&](auto...) { ++dear; });
  detail::for_tokens(alone, 1, 1, 1000, loop_cost::of(0, 4), [&](auto...) { ++cheap; });
  EXPECT_EQ(dear, 1000);
  EXPECT_EQ(cheap, 1);
}

TEST(HeadLoop, NothingIsVisitedWhereNothingIs) {
  serial alone;
  auto const fail = [](auto...) { FAIL(); };
  detail::for_heads(alone, 0, 5, loop_cost{}, fail);
  detail::for_heads(alone, 5, 0, loop_cost{}, fail);
  detail::for_tokens(alone, 2, 2, 0, loop_cost{}, fail);
}

TEST(LoopCost, IsOfAllTasks) {
  loop_cost const one = loop_cost::of(160, 40), all = 10 * one;
  EXPECT_EQ(all.operations, 1600);
  EXPECT_EQ(all.bytes, 400);
  EXPECT_EQ(one.nanoseconds(), 2);
  // Two nanoseconds each: threads are woken from 20 times what that takes on, one for each five times.
  index_t const wake = detail::machine::here().wake;
  EXPECT_EQ((9 * wake * one).worthwhile_threads(), 1);
  EXPECT_EQ((20 * wake * one).worthwhile_threads(), 8);
}

}  // namespace
}  // namespace attend
