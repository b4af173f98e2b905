// SPDX-License-Identifier: BSD-3-Clause
// Policies of eviction: what each head keeps, against the rule written over lists of positions; wrong input.
#include <attend/cache/evicting.hpp>
#include <attend/select/eviction_policies.hpp>

#include <algorithm>

#include "support/stores.hpp"

namespace attend {
using namespace caches;
using namespace extend;

namespace {

using test::expect_error;

constexpr index_t sequences = 2, heads = 3, tokens = 60;

/// A cache whose tokens have random scores.
struct scored_cache {
  test::token_tensors<float> tensors{heads, tokens, 6, 4, 1};
  evicting_cache<float> cache{{sequences, heads, 6, 4}, {.pages = 200, .page_tokens = 8}};
  std::mt19937 engine{1};

  void append(index_t sequence, index_t first, index_t count) {
    tensors.append_to(cache, sequence, first, count);
    for (index_t head = 0; head < heads; ++head)
      for (index_t row = cache.row_from(sequence, head, first); row < cache.stored(sequence, head); ++row)
        // Few values, so that some are equal.
        cache.scores(sequence, head, row)[0] = static_cast<float>(engine() % 12);
  }
  std::vector<index_t> positions(index_t sequence, index_t head) const {
    std::vector<index_t> all;
    for (index_t row = 0; row < cache.stored(sequence, head); ++row)
      all.push_back(cache.positions(sequence, head, row)[0]);
    return all;
  }
};

/// Those of `positions` that are first, last, or among the `most` of the others with the largest scores.
template <class Score>
std::vector<index_t> best(std::vector<index_t> const& positions, index_t size, index_t sinks, index_t recent,
                          index_t most, Score const& score) {
  std::vector<index_t> stay, between;
  for (index_t p : positions) (p < sinks || p >= size - recent ? stay : between).push_back(p);
  std::stable_sort(between.begin(), between.end(), [&](index_t a, index_t b) { return score(a) > score(b); });
  between.resize(std::min(between.size(), static_cast<std::size_t>(most)));
  stay.insert(stay.end(), between.begin(), between.end());
  std::sort(stay.begin(), stay.end());
  return stay;
}

/// Applies a policy after some tokens and again after more; expected(sequence, head, positions, size) is what is left.
template <class Policy, class Expected>
void expect_kept(Policy const& policy, Expected const& expected) {
  scored_cache scored;
  for (index_t first : {0, 40})
    for (index_t s = 0; s < sequences; ++s) {
      scored.append(s, first, first == 0 ? 40 : 10 + 10 * s);
      if (s + 1 < sequences) continue;
      std::vector<std::vector<index_t>> left;
      for (index_t list = 0; list < sequences * heads; ++list) {
        index_t const of = list / heads, head = list % heads;
        left.push_back(expected(scored, of, head, scored.positions(of, head), scored.cache.size(of)));
      }
      scored.cache.evict(policy, 1);
      for (index_t list = 0; list < sequences * heads; ++list)
        EXPECT_EQ(scored.positions(list / heads, list % heads), left[static_cast<std::size_t>(list)]) << list;
    }
}

TEST(EvictionPolicies, KeepAWindow) {
  for (auto const& [sinks, window] : {std::pair<index_t, index_t>{0, 5}, {4, 8}, {4, 100}, {50, 3}, {0, 0}})
    expect_kept(keep_window{.sinks = sinks, .window = window},
                [&](auto const&, index_t, index_t, auto const& positions, index_t size) {
                  return best(positions, size, sinks, window, 0, [](index_t) { return 0; });
                });
  std::vector<int> const windows{3, -1, 11};
  expect_kept(keep_window{.sinks = 2, .windows = windows},
              [&](auto const&, index_t, index_t head, auto const& positions, index_t size) {
                int const window = windows[static_cast<std::size_t>(head)];
                return best(positions, size, 2, window < 0 ? size : window, 0, [](index_t) { return 0; });
              });
}

TEST(EvictionPolicies, KeepTheHeaviest) {
  for (bool by_values : {false, true})
    for (index_t heaviest : {0, 1, 9, 100})
      expect_kept(keep_heaviest{.recent = 7, .heaviest = heaviest, .sinks = 3, .by_values = by_values},
                  [&](scored_cache const& scored, index_t s, index_t head, auto const& positions, index_t size) {
                    return best(positions, size, 3, 7, heaviest, [&](index_t p) {
                      float const score = scored.cache.scores(s, head, scored.cache.row_from(s, head, p))[0];
                      float magnitudes = 0;
                      for (float x : scored.tensors.row(head, p).value) magnitudes += std::abs(x);
                      return by_values ? score * magnitudes : score;
                    });
                  });
}

TEST(EvictionPolicies, KeepTheSmallestKeys) {
  expect_kept(keep_smallest_keys{.recent = 6, .smallest = 10, .sinks = 1},
              [&](scored_cache const& scored, index_t, index_t head, auto const& positions, index_t size) {
                return best(positions, size, 1, 6, 10, [&](index_t p) {
                  double squares = 0;
                  for (float x : scored.tensors.row(head, p).key) squares += static_cast<double>(x) * x;
                  return -squares;
                });
              });
}

TEST(EvictionPolicies, DropSpansThatAreClosed) {
  std::vector<int> const open{3, 20, 30, 42}, close{9, 21, 39, 54};
  expect_kept(drop_closed_spans(open, close),
              [&](auto const&, index_t, index_t, std::vector<index_t> positions, index_t size) {
                std::erase_if(positions, [&](index_t p) {
                  for (std::size_t span = 0; span < 4; ++span)
                    if (p >= open[span] && p < close[span] && close[span] < size) return true;
                  return false;
                });
                return positions;
              });
}

// What is left is what the mask shows, of all tokens: nothing that was dropped before is needed again.
TEST(EvictionPolicies, KeepAShard) {
  for (options::sharding const settings :
       {options::sharding{.local = 2, .stride = 5}, options::sharding{.local = 1, .stride = 7, .offset = 3},
        options::sharding{.local = 0, .stride = 2, .dense_heads = 1}})
    expect_kept(keep_shard{.settings = settings, .block = 4},
                [&](auto const&, index_t, index_t head, auto const&, index_t size) {
                  auto const table = sharded_blocks({1, heads, 1, size + 1, 1, 4}, settings);
                  std::vector<index_t> all;
                  for (std::int32_t const block : table.list(table.row(0, head, 0)))
                    for (index_t p = block * 4; p < std::min<index_t>(block * 4 + 4, size); ++p) all.push_back(p);
                  return all;
                });
}

TEST(EvictionPolicies, WaitForTheSlack) {
  scored_cache scored;
  keep_window const policy{.window = 4};
  scored.append(0, 0, 9);
  EXPECT_EQ(scored.cache.evict(policy, 10), 0);
  scored.append(0, 9, 1);
  EXPECT_EQ(scored.cache.evict(policy, 10), heads * 6);
  scored.append(0, 10, 9);
  EXPECT_EQ(scored.cache.evict(policy, 10), 0);
  scored.append(0, 19, 1);
  EXPECT_EQ(scored.cache.evict(policy, 10), heads * 10);
}

TEST(EvictionPolicies, SayWhatIsWrong) {
  scored_cache scored;
  scored.append(0, 0, 20);
  auto& cache = scored.cache;
  std::vector<int> const two{1, 2}, low{1, -2, 3}, one{4}, behind{4, 9}, before{3, 8}, after{8, 12};
  expect_error("keep_window: expected numbers of at least 0 tokens, got -1",
               [&] { cache.evict(keep_window{.sinks = -1}, 1); });
  expect_error("keep_window: expected a window for each of 3 heads, got 2",
               [&] { cache.evict(keep_window{.windows = two}, 1); });
  expect_error("keep_window: expected windows of at least -1, got -2 for head 1",
               [&] { cache.evict(keep_window{.windows = low}, 1); });
  expect_error("keep_heaviest: expected numbers of at least 0 tokens, got -3",
               [&] { cache.evict(keep_heaviest{.heaviest = -3}, 1); });
  expect_error("keep_smallest_keys: expected numbers of at least 0 tokens, got -2",
               [&] { cache.evict(keep_smallest_keys{.recent = -2}, 1); });
  expect_error("keep_shard: expected a stride of at least 1, got 0",
               [&] { cache.evict(keep_shard{.settings = {.stride = 0}}, 1); });
  expect_error("keep_shard: expected blocks of at least 1 token, got 0",
               [&] { cache.evict(keep_shard{.block = 0}, 1); });
  expect_error("drop_closed_spans: expected as many opening sentinels as closing ones, got 1 and 2",
               [&] { cache.evict(drop_closed_spans(one, two), 1); });
  expect_error("drop_closed_spans: expected ascending spans, got 4 to 3 at 0",
               [&] { cache.evict(drop_closed_spans(behind, before), 1); });
  expect_error("drop_closed_spans: expected ascending spans, got 8 to 12 at 1",
               [&] { cache.evict(drop_closed_spans(std::vector<int>{4, 8}, after), 1); });
  for (index_t head = 0; head < heads; ++head) EXPECT_EQ(cache.stored(0, head), 20);
}

}  // namespace
}  // namespace attend
