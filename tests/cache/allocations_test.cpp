// SPDX-License-Identifier: BSD-3-Clause
// A store takes its memory when it is made, as many bytes as it says, and none after that. This program counts all
// bytes.
#include <attend/cache/contiguous.hpp>
#include <attend/cache/evicting.hpp>
#include <attend/cache/head_policy.hpp>
#include <attend/cache/paged.hpp>
#include <attend/cache/saved_sequence.hpp>

#include "support/cached_tokens.hpp"
#include "support/count_allocations.hpp"

namespace attend {
using namespace caches;

namespace {

/// A policy of eviction.
constexpr auto keep_even = [](auto const& tokens, std::span<bool> stays) {
  for (std::size_t i = 0; i < stays.size(); ++i) stays[i] = tokens.position[i] % 2 == 0;
};

/// Bytes that are allocated while a store is made are those that it counts; appending, attending (once warmed up) and
/// truncating allocate nothing.
template <class Make>
void expect_all_memory_at_first(Make const& make) {
  test::sizes const s{.batches = 2,
                      .query_heads = 4,
                      .key_heads = 2,
                      .value_heads = 2,
                      .queries = 60,
                      .keys = 60,
                      .key_dimension = 19,
                      .value_dimension = 12};
  auto const in = test::random_inputs<float>(s, 1);
  auto output = test::filled<float, 4>({2, 4, 60, 12}, 7);
  std::ptrdiff_t before = test::allocated_bytes;
  auto cache = make();
  EXPECT_EQ(test::allocated_bytes - before, cache.bytes());
  auto const go_through = [&](index_t from) {
    for (index_t first = from; first < s.keys; first += 4) {
      cached_attention(cache, test::tokens_of(in.query, first, 4), test::tokens_of(in.key, first, 4),
                       test::tokens_of(in.value, first, 4), test::tokens_of(output, first, 4), causal{});
      if constexpr (requires { cache.evict(keep_even, 8); }) cache.evict(keep_even, 8);
    }
  };
  go_through(0);
  for (index_t b = 0; b < s.batches; ++b) cache.truncate(b, 0);
  before = test::allocated_bytes;
  go_through(0);
  cache.truncate(0, 58);
  cache.truncate(1, 58);
  EXPECT_EQ(test::allocated_bytes, before);
}

cache_shape const shape{2, 2, 19, 12};

TEST(CacheMemory, OfAContiguousCache) {
  expect_all_memory_at_first([] { return contiguous_cache<float>(shape, 64); });
}

TEST(CacheMemory, OfAPagedCache) {
  auto const scales = test::filled<float, 2>({2, 19}, 1);
  expect_all_memory_at_first(
      [&] { return paged_cache<std::int8_t, int4_pair>(shape, {.pages = 30, .page_tokens = 5}, scales.view()); });
}

TEST(CacheMemory, OfACacheThatEvicts) {
  expect_all_memory_at_first([&] { return evicting_cache<bfloat16>(shape, {.pages = 60, .page_tokens = 4}); });
}

TEST(CacheMemory, OfARollingCache) {
  expect_all_memory_at_first([] { return rolling_cache<bfloat16>(shape, {3, 10}, 4); });
}

TEST(CacheMemory, OfACacheByHeads) {
  std::vector<std::int32_t> const kinds{0, 1};
  expect_all_memory_at_first([&] {
    return head_policy_cache(contiguous_cache<half>({2, 1, 19, 12}, 64),
                             rolling_cache<half>({2, 1, 19, 12}, {3, 10}, 4), kinds);
  });
}

TEST(CacheMemory, SavingAndReadingTakeNone) {
  auto const check = [](auto cache) {
    auto const key = test::normal<float, 4>({2, 2, 4, 19}, 1), value = test::normal<float, 4>({2, 2, 4, 12}, 2);
    for (int step = 0; step < 6; ++step) cache.append(key.view(), value.view());
    std::vector<std::byte> bytes(static_cast<std::size_t>(saved_bytes(cache)));
    for (int round = 0; round < 2; ++round) {
      std::ptrdiff_t const before = test::allocated_bytes;
      save(cache, bytes);
      for (index_t s = 0; s < 2; ++s) cache.truncate(s, 0);
      load(cache, bytes);
      // The first reading finds the working memory of its thread.
      if (round > 0) {
        EXPECT_EQ(test::allocated_bytes, before);
      }
    }
  };
  std::vector<std::int32_t> const kinds{0, 1};
  check(paged_cache<std::int8_t, int4_pair>(shape, {.pages = 30, .page_tokens = 5}));
  check(head_policy_cache(contiguous_cache<half>({2, 1, 19, 12}, 64), rolling_cache<half>({2, 1, 19, 12}, {3, 10}, 4),
                          kinds));
}

}  // namespace
}  // namespace attend
