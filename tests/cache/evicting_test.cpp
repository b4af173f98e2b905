// SPDX-License-Identifier: BSD-3-Clause
// The evicting cache: whatever is appended, evicted and cut, each head has the rows that a list of them has, at their
// positions and with their scores, in as many pages as they fill, of which forks share those that neither has changed;
// wrong input is refused, and leaves everything as it was.
#include <attend/cache/evicting.hpp>

#include <attend/cache/contiguous.hpp>

#include "support/executors.hpp"
#include "support/stores.hpp"

namespace attend {
using namespace caches;
using namespace extend;

namespace {

using test::expect_error;

static_assert(KeyValueSource<evicting_cache<float>>);
static_assert(KeyValueSource<evicting_cache<std::int8_t, int4_pair>>);

/// A row as the test knows it: token `token` of the tensors, which was appended at `position`.
struct model_row {
  index_t token, position;
  float score = 0;
};

/// Random operations on a cache of 3 sequences and 2 heads, beside lists of their rows.
template <class Key, class Value>
class trial {
 public:
  static constexpr index_t sequences = 3, heads = 2, all_tokens = 3000, key_dimension = 6, value_dimension = 4;

  trial(index_t page_tokens, unsigned seed, bool forks)
      : forks_(forks),
        tensors_(heads, all_tokens, key_dimension, value_dimension, seed),
        all_({1, heads, key_dimension, value_dimension}, all_tokens),
        cache_({sequences, heads, key_dimension, value_dimension},
               {.pages = 60 / page_tokens + 8, .page_tokens = page_tokens}),
        engine_(seed) {
    tensors_.append_to(all_, 0, 0, all_tokens);
    for (index_t head = 0; head < heads; ++head) stored_.push_back(test::stored_rows(all_, 0, head));
  }

  void run(int steps) {
    for (int step = 0; step < steps; ++step) {
      switch (index_t const s = up_to(sequences - 1), head = up_to(heads - 1); up_to(forks_ ? 6 : 5)) {
        case 0:
        case 1:
          append(s, up_to(9));
          break;
        case 2:
          evict(s, head, engine_() % 2 == 0);
          break;
        case 3:
          if (engine_() % 3 == 0) truncate(s, up_to(cache_.size(s)));
          break;
        case 4:
          add_scores(s, head);
          break;
        case 6:
          fork(s, up_to(sequences - 1));
          break;
        default:
          evict_by_policy(1 + up_to(4));
      }
      expect_all();
      if (testing::Test::HasFailure()) return;
    }
    EXPECT_GT(refused_, 0);
    EXPECT_EQ(refused_copies_ > 0, forks_);
    for (index_t s = 0; s < sequences; ++s) cache_.truncate(s, 0);
    EXPECT_EQ(cache_.used_pages(), 0);
  }

 private:
  index_t up_to(index_t most) { return std::uniform_int_distribution<index_t>(0, most)(engine_); }
  std::vector<model_row>& rows_of(index_t s, index_t head) { return rows_[static_cast<std::size_t>(s * heads + head)]; }

  void append(index_t s, index_t count) {
    if (next_ + count > all_tokens) return;
    index_t const free = cache_.free_pages();
    try {
      index_t const first = cache_.size(s);
      tensors_.append_to(cache_, s, next_, count);
      for (index_t head = 0; head < heads; ++head)
        for (index_t t = 0; t < count; ++t) rows_of(s, head).push_back({next_ + t, first + t});
      next_ += count;
      sizes_[static_cast<std::size_t>(s)] += count;
    } catch (argument_error const&) {
      ++refused_;
      EXPECT_EQ(cache_.free_pages(), free);
    }
  }

  void evict(index_t s, index_t head, bool keep) {
    auto& rows = rows_of(s, head);
    std::vector<std::int32_t> named;
    std::vector<model_row> left;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      bool const names = engine_() % 3 == 0;
      if (names) named.push_back(static_cast<std::int32_t>(i));
      if (names == keep) left.push_back(rows[i]);
    }
    if (is_refused([&] { keep ? cache_.keep(s, head, named) : cache_.evict(s, head, named); })) return;
    rows = left;
  }

  /// Drops each third position, where at least `slack` tokens came since the last time.
  void evict_by_policy(index_t slack) {
    index_t gone = 0;
    auto const third = [&](auto const& tokens, std::span<bool> stays) {
      EXPECT_EQ(tokens.size, cache_.size(tokens.sequence));
      for (std::size_t i = 0; i < stays.size(); ++i) stays[i] = stays[i] && tokens.position[i] % 3 != tokens.head;
    };
    index_t evicted = 0;
    if (is_refused([&] { evicted = cache_.evict(third, slack, threads{2}); })) return;
    for (index_t s = 0; s < sequences; ++s) {
      auto const at = static_cast<std::size_t>(s);
      if (sizes_[at] - evicted_at_[at] < slack) continue;
      evicted_at_[at] = sizes_[at];
      for (index_t head = 0; head < heads; ++head)
        gone += static_cast<index_t>(
            std::erase_if(rows_of(s, head), [&](model_row const& row) { return row.position % 3 == head; }));
    }
    EXPECT_EQ(evicted, gone);
  }

  /// Whether a call fails for want of free pages to copy shared ones to, which it only may where pages are shared.
  template <class Call>
  bool is_refused(Call const& call) {
    index_t const free = cache_.free_pages();
    try {
      call();
      return false;
    } catch (argument_error const& error) {
      EXPECT_NE(std::string(error.what()).find("to copy shared ones"), std::string::npos);
      EXPECT_EQ(cache_.free_pages(), free);
      ++refused_copies_;
      return true;
    }
  }

  void fork(index_t from, index_t to) {
    if (from == to) return;
    truncate(to, 0);
    index_t const tokens = up_to(1) ? cache_.size(from) : up_to(cache_.size(from)), free = cache_.free_pages();
    cache_.fork(from, to, tokens);
    EXPECT_EQ(cache_.free_pages(), free);
    sizes_[static_cast<std::size_t>(to)] = tokens;
    evicted_at_[static_cast<std::size_t>(to)] = std::min(evicted_at_[static_cast<std::size_t>(from)], tokens);
    for (index_t head = 0; head < heads; ++head) {
      rows_of(to, head) = rows_of(from, head);
      std::erase_if(rows_of(to, head), [&](model_row const& row) { return row.position >= tokens; });
    }
  }

  void truncate(index_t s, index_t size) {
    auto const at = static_cast<std::size_t>(s);
    cache_.truncate(s, size);
    sizes_[at] = size;
    evicted_at_[at] = std::min(evicted_at_[at], size);
    for (index_t head = 0; head < heads; ++head)
      std::erase_if(rows_of(s, head), [&](model_row const& row) { return row.position >= size; });
  }

  void add_scores(index_t s, index_t head) {
    float const more = static_cast<float>(up_to(100));
    if (is_refused([&] { cache_.separate(); })) return;
    for (index_t row = 0; row < cache_.stored(s, head);) {
      auto const scores = cache_.scores(s, head, row);
      for (float& score : scores) score += more;
      row += static_cast<index_t>(scores.size());
    }
    for (model_row& row : rows_of(s, head)) row.score += more;
  }

  void expect_all() {
    index_t pages = 0;
    for (index_t s = 0; s < sequences; ++s) {
      EXPECT_EQ(cache_.size(s), sizes_[static_cast<std::size_t>(s)]);
      for (index_t head = 0; head < heads; ++head) {
        auto const& expected = rows_of(s, head);
        auto const rows = test::stored_rows(cache_, s, head);
        ASSERT_EQ(rows.size(), expected.size());
        pages += divide_up(static_cast<index_t>(rows.size()), cache_.page_tokens());
        for (std::size_t i = 0; i < rows.size(); ++i) {
          auto row = stored_[static_cast<std::size_t>(head)][static_cast<std::size_t>(expected[i].token)];
          row.position = expected[i].position;
          ASSERT_EQ(rows[i], row) << "sequence " << s << ", head " << head << ", row " << i;
          ASSERT_EQ(std::as_const(cache_).scores(s, head, static_cast<index_t>(i))[0], expected[i].score);
          ASSERT_EQ(cache_.row_from(s, head, row.position), static_cast<index_t>(i));
        }
        expect_adjacent(s, head);
      }
    }
    if (forks_)
      EXPECT_LE(cache_.used_pages(), pages);
    else
      EXPECT_EQ(cache_.used_pages(), pages);
  }

  /// Runs that pass over what is missing: the same rows, at least a page at a time.
  void expect_adjacent(index_t s, index_t head) {
    for (index_t first = 0; first < cache_.stored(s, head);) {
      auto const run = cache_.adjacent_rows(s, head, first);
      ASSERT_GE(run.count,
                std::min(cache_.page_tokens() - first % cache_.page_tokens(), cache_.stored(s, head) - first));
      for (index_t i = 0; i < run.count; ++i) {
        auto const alone = cache_.rows(s, head, first + i);
        ASSERT_EQ(run.key + i * run.key_stride, alone.key);
        ASSERT_EQ(run.value + i * run.value_stride, alone.value);
        ASSERT_EQ(cache_.positions(s, head, first)[static_cast<std::size_t>(i)], alone.position);
      }
      first += run.count;
    }
  }

  bool forks_;
  test::token_tensors<accumulation_t<std::conditional_t<Element<Key>, Key, float>>> tensors_;
  contiguous_cache<Key, Value> all_;
  evicting_cache<Key, Value> cache_;
  std::mt19937 engine_;
  std::vector<std::vector<test::stored_row<storage_accumulation_t<Key>>>> stored_;
  std::vector<model_row> rows_[sequences * heads];
  index_t sizes_[sequences] = {}, evicted_at_[sequences] = {};
  index_t next_ = 0, refused_ = 0, refused_copies_ = 0;
};

template <class Key, class Value = Key>
void expect_model(int steps, bool forks = false) {
  for (index_t page_tokens : {1, 3, 16}) {
    SCOPED_TRACE(page_tokens);
    trial<Key, Value>(page_tokens, static_cast<unsigned>(page_tokens), forks).run(steps);
  }
}

TEST(EvictingCache, AgreesWithListsOfFloats) { expect_model<float>(1500); }
TEST(EvictingCache, AgreesWithListsOfOtherElements) {
  expect_model<double>(300);
  expect_model<half, bfloat16>(300);
  expect_model<std::int8_t, half>(300);
  expect_model<int4_pair, std::int8_t>(300);
}

TEST(EvictingCache, SharesPagesWithForks) { expect_model<float>(1500, true); }

TEST(EvictingCache, CopiesOnlyPagesThatAreWrittenTo) {
  test::token_tensors<float> const tensors(1, 20, 2, 2, 1);
  evicting_cache<float> cache({2, 1, 2, 2}, {.pages = 6, .page_tokens = 4});
  tensors.append_to(cache, 0, 0, 18);
  cache.fork(0, 1);
  EXPECT_EQ(cache.used_pages(), 5);
  // The last page takes the new token; what was evicted from the third on moves that one alone, as the fourth and the
  // fifth become one page.
  tensors.append_to(cache, 1, 18, 1);
  EXPECT_EQ(cache.used_pages(), 6);
  expect_error("rows: expected 2 free pages, to copy shared ones that would be written to, got 0",
               [&] { cache.evict(0, 0, std::vector<int>{9, 10, 11}); });
  expect_error("separate: expected 4 free pages, to copy shared ones that would be written to, got 0",
               [&] { cache.separate(); });
  expect_error("scores: expected 4 free pages, to copy shared ones that would be written to, got 0",
               [&] { cache.scores(0, 0, 0); });
  EXPECT_EQ(cache.stored(0, 0), 18);
  cache.truncate(0, 0);
  EXPECT_EQ(cache.used_pages(), 5);
  EXPECT_EQ(test::stored_rows(cache, 1, 0).back(), tensors.row(0, 18));
  expect_error("to: expected an empty sequence, got one of 19 tokens", [&] { cache.fork(0, 1); });
  expect_error("from: expected from 0 to 1, got 2", [&] { cache.fork(2, 0); });
  expect_error("size: expected from 0 to 19 (the tokens), got 20", [&] { cache.fork(1, 0, 20); });
}

// Two key heads and four value heads: each key head's two pairs keep the same tokens.
TEST(EvictingCache, KeepsTokensOfHeadsThatShareKeysTogether) {
  cache_shape const shape{
      .sequences = 1, .key_value_heads = 4, .key_dimension = 6, .value_dimension = 3, .key_heads = 2, .value_heads = 4};
  auto const key = test::normal<float, 3>({2, 20, 6}, 1), value = test::normal<float, 3>({4, 20, 3}, 2);
  auto const check = [&]<class Key, class Value>(Key, Value) {
    using cache_type = evicting_cache<Key, Value>;
    cache_type cache(shape, {.pages = 10, .page_tokens = 4});
    contiguous_cache<Key, Value> all(shape, 20);
    cache.append(0, key.view(), value.view());
    all.append(0, key.view(), value.view());
    EXPECT_EQ(cache.heads_together(), 2);
    EXPECT_EQ(cache.used_pages(), 10);
    EXPECT_EQ(cache_type::page_bytes(shape, 1),
              cache_type::page_bytes({.key_value_heads = 1, .key_dimension = 6, .value_dimension = 6}, 1) +
                  (is_scaled<Value> ? 4 : 0));
    cache.evict(
        [](auto const& tokens, std::span<bool> stays) {
          EXPECT_EQ(tokens.heads, 2);
          for (std::size_t i = 0; i < stays.size(); ++i) stays[i] = tokens.position[i] % 2 == tokens.head / 2;
        },
        1);
    EXPECT_EQ(cache.used_pages(), 6);
    for (index_t head = 0; head < 4; ++head) {
      auto const rows = test::stored_rows(cache, 0, head), of_all = test::stored_rows(all, 0, head);
      ASSERT_EQ(rows.size(), 10u);
      for (std::size_t i = 0; i < 10; ++i)
        EXPECT_EQ(rows[i], of_all[2 * i + static_cast<std::size_t>(head / 2)]) << head;
    }
  };
  check(float(), float());
  check(std::int8_t(), std::int8_t());
}

TEST(EvictingCache, KeepsChannelScalesOfItsHeads) {
  auto scales = test::normal<float, 2>({2, 4}, 9);
  for (float& x : scales.elements) x = std::abs(x) + 0.25f;
  test::token_tensors<float> const tensors(2, 20, 4, 4, 1);
  evicting_cache<std::int8_t> cache({1, 2, 4, 4}, {.pages = 20, .page_tokens = 4}, scales.view());
  contiguous_cache<std::int8_t> all({1, 2, 4, 4}, 20, scales.view());
  tensors.append_to(cache, 0, 0, 20);
  tensors.append_to(all, 0, 0, 20);
  for (index_t head : {0, 1}) EXPECT_EQ(test::stored_rows(cache, 0, head), test::stored_rows(all, 0, head));
}

TEST(EvictingCache, AppendsToAllSequencesOrToNone) {
  auto const key = test::normal<float, 4>({2, 2, 3, 2}, 1), value = test::normal<float, 4>({2, 2, 3, 2}, 2);
  evicting_cache<float> cache({2, 2, 2, 2}, {.pages = 6, .page_tokens = 2});
  // Three tokens take two pages of each of four heads.
  expect_error(
      "key: expected at most 2 more tokens (sequence 1 has 0, 2 of 6 pages of 2 tokens of a head are free), got 3",
      [&] { cache.append(key.view(), value.view()); });
  EXPECT_EQ(cache.size(0), 0);
  EXPECT_EQ(cache.free_pages(), 6);
}

TEST(EvictingCache, WritesWhatWasNotEvictedMeanwhile) {
  test::token_tensors<float> const tensors(1, 6, 2, 2, 1);
  evicting_cache<float> cache({1, 1, 2, 2}, {.pages = 4, .page_tokens = 2});
  cache.make_room(0, 6);
  cache.evict(0, 0, std::vector<std::int32_t>{1, 4});
  tensor_view<float const, 2> const key(tensors.key.elements.data(), {6, 2}),
      value(tensors.value.elements.data(), {6, 2});
  cache.write(0, 0, 0, key, value);
  auto const rows = test::stored_rows(cache, 0, 0);
  ASSERT_EQ(rows.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(rows[i], tensors.row(0, std::array{0, 2, 3, 5}[i]));
}

TEST(EvictingCache, ChangesNothingWhereThePolicyThrows) {
  test::token_tensors<float> const tensors(2, 40, 2, 2, 1);
  evicting_cache<float> cache({1, 2, 2, 2}, {.pages = 40, .page_tokens = 4});
  tensors.append_to(cache, 0, 0, 40);
  auto const fails = [](auto const& tokens, std::span<bool> stays) {
    std::fill(stays.begin(), stays.end(), false);
    if (tokens.head == 1) throw std::runtime_error("a policy's own");
  };
  EXPECT_THROW(cache.evict(fails), std::runtime_error);
  for (index_t head : {0, 1}) EXPECT_EQ(cache.stored(0, head), 40);
}

TEST(EvictingCache, CountsItsBytes) {
  cache_shape const shape{2, 3, 5, 4};
  index_t const slots = 10 * 4, lists = 2 * 3;
  index_t const table = lists * 10 * 4 + 10 * 8, counts = (lists + 2 * 2) * static_cast<index_t>(sizeof(index_t));
  EXPECT_EQ(evicting_cache<bfloat16>(shape, {.pages = 10, .page_tokens = 4}).bytes(),
            slots * ((5 + 4) * 2 + 8) + table + counts);
  EXPECT_EQ((evicting_cache<int4_pair, std::int8_t>(shape, {.pages = 10, .page_tokens = 4}).bytes()),
            slots * (3 + 4 + 2 * 4 + 8) + table + counts);
  EXPECT_EQ((evicting_cache<int4_pair, std::int8_t>::page_bytes(shape, 4)), 4 * (3 + 4 + 2 * 4 + 8));
}

TEST(EvictingCache, SaysWhatIsWrong) {
  test::token_tensors<float> const tensors(2, 20, 4, 3, 1), wide(2, 20, 5, 3, 1);
  evicting_cache<float> cache({2, 2, 4, 3}, {.pages = 8, .page_tokens = 4, .max_tokens = 9});
  tensors.append_to(cache, 0, 0, 7);
  expect_error(
      "key: expected at most 2 more tokens (sequence 0 has 7, 4 of 8 pages of 4 tokens of a head are free), got 3",
      [&] { tensors.append_to(cache, 0, 7, 3); });
  // Only what is kept counts.
  cache.keep(0, 0, std::vector<std::int32_t>{0});
  cache.keep(0, 1, std::vector<std::int32_t>{6});
  tensors.append_to(cache, 0, 7, 8);
  EXPECT_EQ(cache.size(0), 15);
  expect_error("key: expected head dimension 4 (as the cache), got 5", [&] { wide.append_to(cache, 0, 0, 1); });
  expect_error("sequence: expected from 0 to 1, got 2", [&] { tensors.append_to(cache, 2, 0, 1); });
  expect_error("size: expected from 0 to 15 (the tokens), got 16", [&] { cache.truncate(0, 16); });
  std::vector<std::int32_t> const twice{3, 3}, outside{2, 9}, negative{-1};
  expect_error("rows: expected ascending rows below 9 (the stored ones), got 3 at 1",
               [&] { cache.evict(0, 0, twice); });
  expect_error("rows: expected ascending rows below 9 (the stored ones), got 9 at 1",
               [&] { cache.keep(0, 1, outside); });
  expect_error("rows: expected ascending rows below 9 (the stored ones), got -1 at 0",
               [&] { cache.keep(0, 1, negative); });
  expect_error("sequence: expected from 0 to 1, got -1", [&] { cache.evict(-1, 0, twice); });
  expect_error("head: expected from 0 to 1, got 2", [&] { cache.keep(0, 2, twice); });
  auto const nothing = [](auto const&, std::span<bool>) {};
  expect_error("slack: expected at least 1 token, got 0", [&] { cache.evict(nothing, 0); });
  for (index_t head : {0, 1}) EXPECT_EQ(cache.stored(0, head), 9);
  expect_error("evicting_cache: expected pages of 1 to 536870911 tokens, got 0",
               [] { evicting_cache<float>({1, 1, 1, 1}, {.pages = 1, .page_tokens = 0}); });
  expect_error("evicting_cache: expected from 0 to 2147483647 pages, got -1",
               [] { evicting_cache<float>({1, 1, 1, 1}, {.pages = -1}); });
  expect_error("evicting_cache: expected extents of at least 0, got [1, 1, -1, 1]",
               [] { evicting_cache<float>({1, 1, -1, 1}, {.pages = 1}); });
  expect_error("evicting_cache: expected key heads that divide 4 (key_value_heads), got 3",
               [] { evicting_cache<float>({1, 4, 1, 1, 3, 4}, {.pages = 1}); });
  expect_error("channel_scales: expected none, as keys are not quantized", [] {
    auto const scales = test::filled<float, 2>({1, 1}, 1.0f);
    evicting_cache<float>({1, 1, 1, 1}, {.pages = 1}, scales.view());
  });
}

}  // namespace
}  // namespace attend
