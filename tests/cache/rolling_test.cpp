// SPDX-License-Identifier: BSD-3-Clause
// The rolling cache: sinks and window at their own positions, in memory that does not grow; what can be taken back and
// what cannot; wrong input.
#include <attend/cache/rolling.hpp>

#include "support/stores.hpp"

namespace attend {
using namespace caches;
using namespace extend;

namespace {

using test::expect_error;
using test::stored_rows;

static_assert(KeyValueSource<rolling_cache<float>>);
static_assert(KeyValueSource<rolling_cache<int4_pair, half>>);

/// Positions [0, sinks) and the last `reach` ones.
std::vector<index_t> kept_positions(index_t size, index_t sinks, index_t reach) {
  std::vector<index_t> kept;
  for (index_t p = 0; p < size; ++p)
    if (p < sinks || p >= size - reach) kept.push_back(p);
  return kept;
}

template <class T>
void expect_rows(rolling_cache<T> const& cache, index_t sequence, test::token_tensors<T> const& tensors,
                 index_t reach) {
  auto const kept = kept_positions(cache.size(sequence), cache.mask().sinks, reach);
  for (index_t head = 0; head < cache.key_value_heads(); ++head) {
    auto const rows = stored_rows(cache, sequence, head);
    ASSERT_EQ(rows.size(), kept.size()) << "of " << cache.size(sequence) << " tokens";
    for (std::size_t i = 0; i < kept.size(); ++i)
      EXPECT_EQ(rows[i], tensors.row(head, kept[i])) << "row " << i << " of " << cache.size(sequence) << " tokens";
  }
}

TEST(RollingCache, KeepsSinksAndWindow) {
  index_t const tokens = 60;
  test::token_tensors<float> const tensors(2, tokens, 3, 2, 1);
  for (index_t sinks : {0, 1, 4})
    for (index_t window : {1, 2, 7, 100})
      for (index_t chunk : {1, 3, 8}) {
        std::mt19937 engine(static_cast<unsigned>(sinks + 10 * window + 1000 * chunk));
        rolling_cache<float> cache({2, 2, 3, 2}, {sinks, window}, chunk);
        // Sequence 0 stays behind: sequences do not touch each other.
        tensors.append_to(cache, 0, 0, 3);
        for (index_t size = 0; size < tokens;) {
          // Now and then more than a chunk, of which the window is what the last chunk sees.
          index_t const most = std::uniform_int_distribution<index_t>(0, 9)(engine) == 0 ? 3 * chunk : chunk;
          index_t const count = std::min(std::uniform_int_distribution<index_t>(1, most)(engine), tokens - size);
          tensors.append_to(cache, 1, size, count);
          size += count;
          expect_rows(cache, 1, tensors, window - 1 + std::min(count, chunk));
        }
        expect_rows(cache, 0, tensors, window - 1 + std::min<index_t>(3, chunk));
      }
}

TEST(RollingCache, TakesBackAChunk) {
  index_t const sinks = 2, window = 5, chunk = 4;
  test::token_tensors<float> const tensors(1, 300, 3, 2, 1);
  rolling_cache<float> cache({1, 1, 3, 2}, {sinks, window}, chunk);
  std::mt19937 engine(7);
  index_t size = 0;
  for (int step = 0; step < 60; ++step) {
    index_t const count = std::uniform_int_distribution<index_t>(1, chunk)(engine);
    index_t const back = std::uniform_int_distribution<index_t>(0, count)(engine);
    tensors.append_to(cache, 0, size, count);
    cache.truncate(0, size + count - back);
    size += count - back;
    expect_rows(cache, 0, tensors, back > 0 ? window : window - 1 + count);
  }
  EXPECT_GT(size, sinks + window + chunk);
}

TEST(RollingCache, BeginsAnewWithinItsSinks) {
  test::token_tensors<float> const tensors(1, 100, 3, 2, 1);
  rolling_cache<float> cache({1, 1, 3, 2}, {4, 6}, 2);
  tensors.append_to(cache, 0, 0, 50);
  cache.truncate(0, 3);
  expect_rows(cache, 0, tensors, 6);
  for (index_t size = 3; size < 40; ++size) {
    tensors.append_to(cache, 0, size, 1);
    expect_rows(cache, 0, tensors, 6);
  }
}

TEST(RollingCache, RefusesToGoBackToWhatIsGone) {
  test::token_tensors<float> const tensors(1, 100, 3, 2, 1);
  rolling_cache<float> cache({1, 1, 3, 2}, {4, 6}, 2);
  for (index_t t = 0; t < 50; ++t) tensors.append_to(cache, 0, t, 1);
  expect_error("size: expected 0 to 4 or at least 48 tokens to stay, got 47", [&] { cache.truncate(0, 47); });
  expect_rows(cache, 0, tensors, 6);
  cache.truncate(0, 48);
  expect_rows(cache, 0, tensors, 6);
  expect_error("size: expected 0 to 4 or at least 48 tokens to stay, got 5", [&] { cache.truncate(0, 5); });
}

TEST(RollingCache, CountsItsBytes) {
  index_t const rows = 2 * 3 * (4 + 10 + 2);
  index_t const state = 2 * 3 * sizeof(index_t);
  rolling_cache<half> cache({2, 3, 5, 4}, {4, 10}, 2);
  EXPECT_EQ(cache.bytes(), rows * (5 + 4) * 2 + state);
  test::token_tensors<half> const tensors(3, 100, 5, 4, 1);
  tensors.append_to(cache, 0, 0, 100);
  EXPECT_EQ(cache.bytes(), rows * (5 + 4) * 2 + state);
}

TEST(RollingCache, SaysWhatIsWrong) {
  std::vector<std::int32_t> const heads{1};
  expect_error("rolling_cache: expected from 0 to 536870911 sinks, got -1",
               [] { rolling_cache<float>({1, 1, 1, 1}, {-1, 4}); });
  expect_error("rolling_cache: expected a window from 1 to 536870911, got 0",
               [] { rolling_cache<float>({1, 1, 1, 1}, {0, 0}); });
  expect_error("rolling_cache: expected chunks from 1 to 536870911 tokens, got 0",
               [] { rolling_cache<float>({1, 1, 1, 1}, {0, 1}, 0); });
  expect_error("rolling_cache: expected the same for all heads, got a list of 1",
               [&] { rolling_cache<float>({1, 1, 1, 1}, {0, 1, heads}); });
  rolling_cache<float> cache({1, 1, 3, 2}, {4, 6});
  test::token_tensors<float> const wide(1, 3, 4, 2, 1);
  expect_error("key: expected head dimension 3 (as the cache), got 4", [&] { wide.append_to(cache, 0, 0, 1); });
  expect_error("size: expected from 0 to 0 (the tokens), got 1", [&] { cache.truncate(0, 1); });
  expect_error("key: expected at most 536870911 more tokens (sequence 0 has 0 of 536870911), got 4611686018427387904",
               [&] { cache.make_room(0, index_t{1} << 62); });
  EXPECT_EQ(cache.size(0), 0);
}

}  // namespace
}  // namespace attend
