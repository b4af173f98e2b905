// SPDX-License-Identifier: BSD-3-Clause
// Rotary positions of cached_attention: prefill and token-by-token decoding with it are attention to tensors that were
// rotated before, through every store; and what is refused.
#include <attend/attention/softmax/rotary_embedding.hpp>
#include <attend/cache/head_policy.hpp>
#include <attend/cache/paged.hpp>

#include "support/cached_tokens.hpp"

namespace attend {
using namespace options;
using namespace linear;
using namespace caches;

namespace {

using test::expect_error;
using test::sizes;

// Four query heads share a key head: one or two tokens go to the split engine, more of them to the tiled one.
sizes const shape{.batches = 2,
                  .query_heads = 8,
                  .key_heads = 2,
                  .value_heads = 2,
                  .queries = 60,
                  .keys = 60,
                  .key_dimension = 24,
                  .value_dimension = 13};
cache_shape const of_cache{2, 2, 24, 13};

template <class T>
test::inputs<T> rotated(test::inputs<T> in, rotary<rotary_frequencies> const& settings) {
  rotary_embedding(in.query.view(), settings, in.query.view());
  rotary_embedding(in.key.view(), settings, in.key.view());
  return in;
}

/// Token by token, in pieces and at once: what attention to the rotated tensors gives, as the cache stores them.
template <class Make>
void expect_as_rotated_before(Make const& make, reference::visible_function visible) {
  using Cache = decltype(make());
  rotary const settings(rotary_frequencies(16, 1000), rotary_layout::interleaved);
  auto const in = test::random_inputs<float>(shape, 1);
  auto const before = rotated(in, settings);
  reference::options with;
  with.visible = std::move(visible);
  auto const stored = test::as_stored<typename Cache::key_element, typename Cache::value_element>(before);
  auto const expected = reference::softmax_attention<double>(
      std::as_const(stored.query).view(), std::as_const(stored.key).view(), std::as_const(stored.value).view(), with);
  double const allowed = test::tolerance<float>(test::largest_magnitude(stored.value.elements));
  for (index_t piece : {1, 2, 7, 60}) {
    Cache cache = make();
    auto const got = test::in_pieces(cache, in, [&] { return piece; }, settings);
    EXPECT_TRUE(test::near(got.elements, expected.output, allowed)) << piece;
  }
}

TEST(CachedAttentionRotary, IsRotatingBefore) {
  expect_as_rotated_before([] { return contiguous_cache<float>(of_cache, 60); }, reference::causal_bottom_right());
  expect_as_rotated_before([] { return paged_cache<float>(of_cache, {.pages = 20, .page_tokens = 7}); },
                           reference::causal_bottom_right());
  expect_as_rotated_before([] { return paged_cache<std::int8_t>(of_cache, {.pages = 20, .page_tokens = 7}); },
                           reference::causal_bottom_right());
}

// More tokens than the chunk are cut into chunks.
TEST(CachedAttentionRotary, IsRotatingBeforeInARollingCache) {
  expect_as_rotated_before([] { return rolling_cache<float>(of_cache, {2, 11}, 9); },
                           [](reference::place const& at) {
                             return at.key <= at.position() && (at.key < 2 || at.position() - at.key < 11);
                           });
}

TEST(CachedAttentionRotary, IsRotatingBeforeForHeadsOfTwoKinds) {
  std::vector<std::int32_t> const kinds{0, 1};
  cache_shape one = of_cache;
  one.key_value_heads = 1;
  expect_as_rotated_before(
      [&] {
        return head_policy_cache(contiguous_cache<float>(one, 60), rolling_cache<float>(one, {2, 11}, 60), kinds);
      },
      [](reference::place const& at) {
        return at.key <= at.position() && (at.head < 4 || at.key < 2 || at.position() - at.key < 11);
      });
}

// Both engines, and the tensors' own call, rotate queries alone to the same bits.
TEST(CachedAttentionRotary, RotatesQueriesAlone) {
  rotary const settings(rotary_frequencies(24), rotary_layout::half_split);
  auto const in = test::random_inputs<float>(shape, 2);
  auto const before = rotated(in, settings);
  contiguous_cache<float> cache(of_cache, 60);
  cache.append(before.key.view(), before.value.view());
  for (index_t queries : {1, 60}) {
    auto const query = test::tokens_of(in.query, 60 - queries, queries);
    auto expected = test::filled<float, 4>({2, 8, queries, 13}, 7), got = expected, of_tensors = expected;
    softmax_attention(test::tokens_of(before.query, 60 - queries, queries), cache, expected.view(), causal{});
    softmax_attention(query, cache, got.view(), causal{}, rotary_queries(settings));
    softmax_attention(query, before.key.view(), before.value.view(), of_tensors.view(), causal{},
                      rotary_queries(settings));
    EXPECT_TRUE(test::same_bits(got.elements, expected.elements)) << queries;
    EXPECT_TRUE(test::same_bits(of_tensors.elements, expected.elements)) << queries;
  }
  auto expected = test::filled<float, 4>({2, 8, 2, 13}, 7), got = expected;
  decode_attention(test::tokens_of(before.query, 58, 2), cache, expected.view(), causal{});
  decode_attention(test::tokens_of(in.query, 58, 2), cache, got.view(), causal{}, rotary_queries(settings));
  EXPECT_TRUE(test::same_bits(got.elements, expected.elements));
  // A cache that takes keys as they come, and queries that are rotated.
  contiguous_cache<float> other(of_cache, 60);
  auto whole = test::filled<float, 4>({2, 8, 60, 13}, 7), apart = whole;
  cached_attention(other, in.query.view(), before.key.view(), in.value.view(), whole.view(), rotary_queries(settings));
  softmax_attention(in.query.view(), cache, apart.view(), causal{}, rotary_queries(settings));
  EXPECT_TRUE(test::same_bits(whole.elements, apart.elements));
}

TEST(CachedAttentionRotary, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>(shape, 3);
  auto output = test::filled<float, 4>({2, 8, 60, 13}, 7);
  rolling_cache<float> cache(of_cache, {2, 8}, 10);
  auto const expect_refusal = [&](std::string const& message, auto const& settings) {
    expect_error(message, [&] {
      cached_attention(cache, in.query.view(), in.key.view(), in.value.view(), output.view(), settings);
    });
    EXPECT_TRUE(std::all_of(output.elements.begin(), output.elements.end(), [](float x) { return x == 7; }));
    EXPECT_EQ(cache.size(0), 0);
    EXPECT_EQ(cache.size(1), 0);
  };
  rotary const fits(rotary_frequencies(24));
  expect_refusal("rotary: expected at most 24 channels (the head dimension), got 26", rotary(rotary_frequencies(26)));
  // Positions of one's own do not say which are a chunk's.
  std::vector<std::int64_t> const positions(60);
  expect_refusal(
      "query: expected at most 10 tokens at a time (the cache's chunk) beside rotary.at(queries, keys), got 60",
      fits.at(positions));
  // A later chunk would not fit.
  auto const table = test::normal<float, 2>({59, 12}, 1);
  rotary const short_table(rotary_table(table.view(), table.view()));
  expect_refusal("rotary_table (cosine): expected positions from 0 to 58, got 59", short_table);
  // Queries before the first token of a short sequence have no row in a table.
  std::vector<std::int64_t> const lengths{60, 30};
  expect_error("rotary_table (cosine): expected positions from 0 to 58, got -30", [&] {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), padded_keys(lengths),
                      rotary_queries(short_table));
  });
}

}  // namespace
}  // namespace attend
