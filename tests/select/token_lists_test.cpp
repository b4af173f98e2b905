// SPDX-License-Identifier: BSD-3-Clause
// Lists of selected tokens: ascending whatever overlaps, within their memory; and budgets.
#include <attend/select/token_lists.hpp>

#include <gmock/gmock.h>

#include <limits>
#include <string>
#include <vector>

#include "support/expect_error.hpp"

namespace attend {
using namespace selection;
using namespace extend;

namespace {

using test::expect_error;
using testing::ElementsAre;
using testing::IsEmpty;

TEST(TokenLists, HoldOneListForEachHead) {
  token_lists lists(2, 3, 10);
  lists.add(1, 2, 4, 6);
  lists.add(0, 1, 7, 8);
  EXPECT_THAT(lists(1, 2), ElementsAre(4, 5));
  EXPECT_THAT(lists(0, 1), ElementsAre(7));
  EXPECT_THAT(lists(0, 0), IsEmpty());
  EXPECT_EQ(lists.size(1, 2), 2);
  lists.clear(1, 2);
  EXPECT_THAT(lists(1, 2), IsEmpty());
  EXPECT_EQ(lists.bytes(), 2 * 3 * (10 * 4 + 8));
}

TEST(TokenLists, JoinRunsThatOverlap) {
  token_lists lists(1, 1, 10);
  lists.add(0, 0, 0, 3);
  lists.add(0, 0, 2, 5);
  lists.add(0, 0, 1, 4);
  lists.add(0, 0, 8, 8);
  lists.add(0, 0, 7, 9);
  EXPECT_THAT(lists(0, 0), ElementsAre(0, 1, 2, 3, 4, 7, 8));
}

TEST(TokenLists, MergePagesWithWhatIsForced) {
  token_lists lists(1, 1, 20);
  std::vector<std::int32_t> const pages{0, 2, 4};
  lists.assign(0, 0, 18, 2, pages, 4, 3);
  EXPECT_THAT(lists(0, 0), ElementsAre(0, 1, 2, 3, 8, 9, 10, 11, 15, 16, 17));
  lists.assign(0, 0, 18, 0, pages, 4, 0);
  EXPECT_THAT(lists(0, 0), ElementsAre(0, 1, 2, 3, 8, 9, 10, 11, 16, 17));
  lists.assign(0, 0, 5, 3, {}, 4, 4);
  EXPECT_THAT(lists(0, 0), ElementsAre(0, 1, 2, 3, 4));
  lists.assign(0, 0, 2, 5, {}, 4, 9);
  EXPECT_THAT(lists(0, 0), ElementsAre(0, 1));
  lists.assign(0, 0, 0, 5, {}, 4, 9);
  EXPECT_THAT(lists(0, 0), IsEmpty());
}

TEST(TokenLists, SayWhatIsWrong) {
  static constexpr index_t most = std::numeric_limits<index_t>::max();
  expect_error("token_lists: expected extents of at least 0, got [1, -1, 3]", [] { token_lists(1, -1, 3); });
  // Before any memory is asked for.
  expect_error("token_lists: expected at most 536870912 rows, got " + std::to_string(most),
               [] { token_lists(1, 1, most); });
  token_lists lists(1, 1, 4);
  lists.add(0, 0, 0, 3);
  expect_error("token_lists: expected rows from 0 on, got -2", [&] { lists.add(0, 0, -2, 1); });
  expect_error("token_lists: expected a list of 1 sequences and 1 heads, got sequence 0 and head -1",
               [&] { lists.add(0, -1, 0, 1); });
  expect_error("token_lists: expected at most 1 more rows, got 2", [&] { lists.add(0, 0, 5, 7); });
  EXPECT_THAT(lists(0, 0), ElementsAre(0, 1, 2));
}

TEST(SelectionBudget, IsATokenCountOrAFraction) {
  EXPECT_EQ((selection_budget{.tokens = 5}.of(0, 100)), 5);
  EXPECT_EQ((selection_budget{.tokens = 500}.of(0, 100)), 100);
  EXPECT_EQ((selection_budget{.fraction = 0.05}.of(0, 101)), 6);
  EXPECT_EQ((selection_budget{.fraction = 1}.of(0, 101)), 101);
  EXPECT_EQ((selection_budget{.fraction = 0}.of(0, 101)), 0);
  EXPECT_EQ((selection_budget{.tokens = 5, .first = 4, .last = 3}.of(0, 100)), 7) << "forced ones are had in any case";
  EXPECT_EQ((selection_budget{.tokens = 5, .first = 4, .last = 3}.of(0, 2)), 2);
  std::vector<index_t> const each{3, 9};
  EXPECT_EQ((selection_budget{.tokens = 5, .each = each}.of(1, 100)), 9);
}

TEST(SelectionBudget, SaysWhatIsWrong) {
  expect_error("budget: expected at least 0 tokens, got -1", [] { selection_budget{.tokens = -1}.check("budget", 1); });
  expect_error("budget: expected a fraction from 0 to 1, got 1.5",
               [] { selection_budget{.fraction = 1.5}.check("budget", 1); });
  expect_error("budget: expected at least 0 tokens that are taken in any case, got 0 and -2",
               [] { selection_budget{.last = -2}.check("budget", 1); });
  std::vector<index_t> const each{3, -9};
  expect_error("budget: expected tokens for each of 3 lists, got 2",
               [&] { selection_budget{.each = each}.check("budget", 3); });
  expect_error("budget: expected at least 0 tokens, got -9",
               [&] { selection_budget{.each = each}.check("budget", 2); });
}

}  // namespace
}  // namespace attend
