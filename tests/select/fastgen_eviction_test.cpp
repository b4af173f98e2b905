// SPDX-License-Identifier: BSD-3-Clause
// FastGen's choice of a policy for each head, for heads whose weights lie on known tokens; what is kept then and later;
// wrong input.
#include <attend/select/fastgen_eviction.hpp>

#include "support/stores.hpp"

namespace attend {
using namespace caches;
using namespace extend;

namespace {

using test::expect_error;

constexpr index_t tokens = 40, heads = 6;

/// 40 tokens: 0 is special, each tenth from 5 on is punctuation.
std::vector<std::uint8_t> kinds_of_tokens(index_t count) {
  std::vector<std::uint8_t> kinds(static_cast<std::size_t>(count), 0);
  for (index_t t = 5; t < count; t += 10) kinds[static_cast<std::size_t>(t)] = 2;
  kinds[0] = 1;
  return kinds;
}

/// Each head looks elsewhere: at what a policy keeps, or at everything, or at nothing.
float score(index_t head, index_t position) {
  bool const special = position == 0, punctuation = position % 10 == 5, frequent = position % 8 == 2,
             local = position >= 32;
  switch (head) {
    case 0:
      return special ? 100 : 0.01f;
    case 1:
      return special || punctuation ? 10 : 0.01f;
    case 2:
      return punctuation ? 5 : frequent ? 20 : 0.01f;
    case 3:
      return frequent ? 20 : local ? 10 : 0.01f;
    case 4:
      return 1;
    default:
      return 0;
  }
}

evicting_cache<float> scored_cache() {
  test::token_tensors<float> const tensors(heads, tokens, 4, 4, 1);
  evicting_cache<float> cache({1, heads, 4, 4}, {.pages = 200, .page_tokens = 4});
  tensors.append_to(cache, 0, 0, tokens);
  for (index_t head = 0; head < heads; ++head)
    for (index_t row = 0; row < tokens; ++row) cache.scores(0, head, row)[0] = score(head, row);
  return cache;
}

TEST(FastgenEviction, TakesTheCheapestPolicyThatKeepsTheWeights) {
  auto cache = scored_cache();
  auto const kinds = kinds_of_tokens(tokens);
  // A tenth of 40 tokens is frequent, a fifth local: 4 and 8.
  fastgen_eviction policy(cache.shape(), tensor_view(kinds.data(), {1, tokens}),
                          {.weight = 0.8, .frequent = 0.1, .local = 0.2});
  EXPECT_EQ(policy.bytes(), heads);
  EXPECT_EQ(cache.evict(policy), 0);
  policy.choose(cache);
  using enum fastgen_kind;
  fastgen_kind const expected[] = {special, punctuation, frequent, local, full, full};
  for (index_t head = 0; head < heads; ++head) EXPECT_EQ(policy.chosen(0, head), expected[head]) << head;

  test::token_tensors<float> const more(heads, 60, 4, 4, 2);
  more.append_to(cache, 0, 40, 20);
  cache.evict(policy, 20);
  for (index_t head = 0; head < heads; ++head) {
    std::vector<index_t> kept, wanted;
    for (index_t row = 0; row < cache.stored(0, head); ++row) kept.push_back(cache.positions(0, head, row)[0]);
    // New tokens have no kinds and no scores; 6 of 60 tokens are frequent then, and 12 local.
    std::vector<std::pair<float, index_t>> by_score;
    for (index_t p = 0; p < 60; ++p) by_score.emplace_back(p < tokens ? -score(head, p) : 0.f, p);
    std::stable_sort(by_score.begin(), by_score.end());
    for (index_t p = 0; p < 60; ++p) {
      bool const heavy =
          std::any_of(by_score.begin(), by_score.begin() + 6, [&](auto const& x) { return x.second == p; });
      if ((p == 0) || (head > 0 && p < tokens && p % 10 == 5) || (head > 1 && heavy) || (head > 2 && p >= 48) ||
          head > 3)
        wanted.push_back(p);
    }
    EXPECT_EQ(kept, wanted) << head;
  }
}

TEST(FastgenEviction, SaysWhatIsWrong) {
  auto cache = scored_cache();
  auto const kinds = kinds_of_tokens(2 * tokens);
  expect_error("kinds: expected sequences 1 (as the cache), got 2",
               [&] { fastgen_eviction(cache.shape(), tensor_view(kinds.data(), {2, tokens})); });
  expect_error("fastgen_options: expected shares from 0 to 1, got 1.5",
               [&] { fastgen_eviction(cache.shape(), tensor_view(kinds.data(), {1, tokens}), {.weight = 1.5}); });
  expect_error("fastgen_options: expected shares from 0 to 1, got nan", [&] {
    fastgen_eviction(cache.shape(), tensor_view(kinds.data(), {1, tokens}), {.local = std::nan("")});
  });
  fastgen_eviction of_two({1, 2, 4, 4}, tensor_view(kinds.data(), {1, tokens}));
  expect_error("cache: expected heads 2 (as the policy), got 6", [&] { of_two.choose(cache); });
  expect_error("cache: expected heads 2 (as the policy), got 6", [&] { cache.evict(of_two, 1); });
  fastgen_eviction two_sequences({2, heads, 4, 4}, tensor_view(kinds.data(), {2, tokens}));
  expect_error("cache: expected sequences 2 (as the policy), got 1", [&] { cache.evict(two_sequences, 1); });
  EXPECT_EQ(cache.stored(0, 0), tokens);
}

}  // namespace
}  // namespace attend
