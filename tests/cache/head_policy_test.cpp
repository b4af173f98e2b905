// SPDX-License-Identifier: BSD-3-Clause
// Heads that are kept in their own ways: each reads like its own store.
#include <attend/cache/contiguous.hpp>
#include <attend/cache/head_policy.hpp>
#include <attend/cache/paged.hpp>

#include "support/stores.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace extend;

namespace {

using test::expect_error;
using test::stored_rows;

using per_head = head_policy_cache<paged_cache<float>, rolling_cache<float>>;
static_assert(KeyValueSource<per_head>);
static_assert(KeyValueSource<head_policy_cache<contiguous_cache<std::int8_t>, rolling_cache<std::int8_t>>>);

std::vector<std::int32_t> const kinds{0, 1, 1, 0, 1};

per_head make() {
  return {paged_cache<float>({2, 2, 3, 2}, {.pages = 20, .page_tokens = 4}),
          rolling_cache<float>({2, 3, 3, 2}, {2, 5}, 3), kinds};
}

TEST(HeadPolicyCache, KeepsEachHeadInItsOwnWay) {
  test::token_tensors<float> const tensors(5, 40, 3, 2, 1);
  per_head cache = make();
  for (index_t size = 0; size < 30; size += 3) tensors.append_to(cache, 1, size, 3);
  EXPECT_EQ(cache.size(0), 0);
  EXPECT_EQ(cache.size(1), 30);
  for (index_t head = 0; head < 5; ++head) {
    auto const rows = stored_rows(cache, 1, head);
    bool const streams = kinds[static_cast<std::size_t>(head)] != 0;
    ASSERT_EQ(rows.size(), streams ? 2u + 4 + 3 : 30u);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      auto const position = static_cast<index_t>(i) + (streams && i >= 2 ? 30 - 9 : 0);
      EXPECT_EQ(rows[i], tensors.row(head, position)) << "head " << head << ", row " << i;
    }
  }
  cache.truncate(1, 28);
  EXPECT_EQ(cache.size(1), 28);
  EXPECT_EQ(cache.stored(1, 0), 28);
  EXPECT_EQ(cache.stored(1, 1), 7);
  EXPECT_EQ(cache.full().size(1), 28);
  EXPECT_EQ(cache.streaming_heads().size(1), 28);
}

TEST(HeadPolicyCache, CountsTheBytesOfBothStores) {
  per_head const cache = make();
  EXPECT_EQ(cache.bytes(), cache.full().bytes() + cache.streaming_heads().bytes() +
                               5 * static_cast<index_t>(sizeof(std::int32_t) + sizeof(index_t)));
}

TEST(HeadPolicyCache, ChangesNothingWhereOneStoreHasNoRoom) {
  test::token_tensors<float> const tensors(5, 100, 3, 2, 1);
  per_head cache = make();
  tensors.append_to(cache, 0, 0, 79);
  expect_error("key: expected at most 1 more tokens (sequence 0 has 79, 0 of 20 pages of 4 tokens are free), got 2",
               [&] { tensors.append_to(cache, 0, 79, 2); });
  EXPECT_EQ(cache.full().size(0), 79);
  EXPECT_EQ(cache.streaming_heads().size(0), 79);
  expect_error("size: expected 0 to 2 or at least 76 tokens to stay, got 70", [&] { cache.truncate(0, 70); });
  EXPECT_EQ(cache.full().size(0), 79);
}

// A ring does not go back: so no store may have changed when one of them, or a later sequence, has no room.
TEST(HeadPolicyCache, AppendsToAllSequencesOrToNone) {
  test::token_tensors<float> const tensors(5, 40, 3, 2, 1);
  per_head cache{paged_cache<float>({2, 2, 3, 2}, {.pages = 20, .page_tokens = 4, .max_tokens = 30}),
                 rolling_cache<float>({2, 3, 3, 2}, {2, 5}, 3), kinds};
  tensors.append_to(cache, 0, 0, 10);
  tensors.append_to(cache, 1, 0, 25);
  auto const key = test::normal<float, 4>({2, 5, 8, 3}, 3), value = test::normal<float, 4>({2, 5, 8, 2}, 4);
  expect_error("key: expected at most 5 more tokens (sequence 1 has 25, 8 of 20 pages of 4 tokens are free), got 8",
               [&] { cache.append(key.view(), value.view()); });
  for (index_t s : {0, 1})
    for (index_t head = 0; head < 5; ++head)
      for (auto const& row : stored_rows(cache, s, head)) EXPECT_EQ(row, tensors.row(head, row.position));
  EXPECT_EQ(cache.size(0), 10);
  EXPECT_EQ(cache.streaming_heads().size(0), 10);
  EXPECT_EQ(cache.full().free_pages(), 10);
  auto const row = test::filled<float, 2>({1, 3}, 1);
  expect_error("head: expected from 0 to 4, got 5", [&] { cache.write(0, 5, 9, row.view(), row.view()); });
}

TEST(HeadPolicyCache, SaysWhatIsWrong) {
  auto const with = [](cache_shape const& full, cache_shape const& streaming, std::vector<std::int32_t> const& list) {
    return per_head(paged_cache<float>(full, {.pages = 1}), rolling_cache<float>(streaming, {1, 1}), list);
  };
  expect_error("full: expected heads 1 (as streams has zeros), got 2",
               [&] { with({1, 2, 3, 2}, {1, 1, 3, 2}, {0, 1}); });
  expect_error("streaming: expected heads 1 (as streams has others), got 2",
               [&] { with({1, 1, 3, 2}, {1, 2, 3, 2}, {0, 1}); });
  expect_error("streaming: expected sequences 1 (as full), got 2", [&] { with({1, 1, 3, 2}, {2, 1, 3, 2}, {0, 1}); });
  expect_error("streaming: expected key dimension 3 (as full), got 4",
               [&] { with({1, 1, 3, 2}, {1, 1, 4, 2}, {0, 1}); });
  expect_error("streaming: expected value dimension 2 (as full), got 3",
               [&] { with({1, 1, 3, 2}, {1, 1, 3, 3}, {0, 1}); });
  test::token_tensors<float> const tensors(1, 1, 3, 2, 1);
  paged_cache<float> used({1, 1, 3, 2}, {.pages = 1});
  tensors.append_to(used, 0, 0, 1);
  expect_error("full: expected tokens 0 (as both stores are empty), got 1", [&] {
    per_head(std::move(used), rolling_cache<float>({1, 1, 3, 2}, {1, 1}), std::vector<std::int32_t>{0, 1});
  });
}

}  // namespace
}  // namespace attend
