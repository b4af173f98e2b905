// SPDX-License-Identifier: BSD-3-Clause
// RazorAttention: against its formula, however a sequence is cut; and exact where the compensation token loses nothing.
#include <attend/attention/cached/razor_attention.hpp>
#include <attend/cache/paged.hpp>
#include <attend/reference/razor_attention.hpp>

#include "support/cached_tokens.hpp"

namespace attend {
using namespace caches;
using namespace extend;
using namespace systems;

namespace {

using test::expect_error;
using test::sizes;

static_assert(KeyValueSource<compensated_cache<float>>);

sizes const odd{.batches = 2,
                .query_heads = 6,
                .key_heads = 3,
                .value_heads = 3,
                .queries = 50,
                .keys = 50,
                .key_dimension = 20,
                .value_dimension = 13};

cache_shape shape_of(sizes const& s, index_t heads) { return {s.batches, heads, s.key_dimension, s.value_dimension}; }

std::vector<std::int32_t> const kinds{1, 0, 1};

template <class S>
auto make(sizes const& s, index_t sinks, index_t window, index_t chunk) {
  return head_policy_cache(paged_cache<S>(shape_of(s, 1), {.pages = s.batches * s.keys, .page_tokens = 4}),
                           compensated_cache<S>(shape_of(s, 2), {sinks, window}, chunk), kinds);
}

template <class T, class S>
void expect_definition(index_t sinks, index_t window, index_t chunk, index_t most) {
  sizes const s = odd;
  auto const in = test::random_inputs<T>(s, 1);
  auto const stored = test::as_stored<S, S>(in);
  auto const expected = reference::razor_attention<double>(stored.query.view(), stored.key.view(), stored.value.view(),
                                                           sinks, window, [](index_t head) { return head != 1; });
  auto cache = make<S>(s, sinks, window, chunk);
  auto output = test::filled<T, 4>({2, 6, 50, 13}, T(7));
  auto rows = test::filled<accumulation_t<T>, 3>({2, 6, 50}, 7);
  std::mt19937 engine(2);
  for (index_t first = 0, count; first < s.keys; first += count) {
    count = std::min(std::uniform_int_distribution<index_t>(1, most)(engine), s.keys - first);
    tensor_view<accumulation_t<T>, 3> const all = rows.view();
    tensor_view<accumulation_t<T>, 3> const seen(&all(0, 0, first), {2, 6, count}, all.strides());
    razor_attention(cache, test::tokens_of(in.query, first, count), test::tokens_of(in.key, first, count),
                    test::tokens_of(in.value, first, count), test::tokens_of(output, first, count), log_sum_exp(seen));
  }
  // What was seen and the compensation are merged after each was rounded to T.
  double const largest = test::largest_magnitude(stored.value.elements);
  double const merged = std::same_as<T, accumulation_t<T>> ? 0 : test::unit_roundoff<T>() * largest;
  EXPECT_TRUE(test::near(output.elements, expected.output, test::tolerance<T>(largest) + merged))
      << sinks << ", " << window << ", " << chunk;
  EXPECT_TRUE(test::near(rows.elements, expected.log_sum_exp,
                         test::tolerance<accumulation_t<T>>(test::largest_magnitude(expected.log_sum_exp))));
}

TEST(RazorAttention, FollowsItsDefinition) {
  for (index_t sinks : {0, 4})
    for (index_t window : {1, 9, 60})
      for (index_t chunk : {1, 5, 20}) {
        expect_definition<float, float>(sinks, window, chunk, 1);
        expect_definition<float, float>(sinks, window, chunk, 30);
      }
}

TEST(RazorAttention, FollowsItsDefinitionInDouble) { expect_definition<double, double>(2, 7, 3, 10); }
TEST(RazorAttention, AveragesWhatIsStored) { expect_definition<bfloat16, std::int8_t>(3, 11, 6, 10); }

// A mean of equal tokens is each of them: nothing is lost.
TEST(RazorAttention, IsFullAttentionWhereDroppedTokensAreEqual) {
  sizes const s = odd;
  auto in = test::random_inputs<float>(s, 3);
  for (auto* all : {&in.key, &in.value})
    for (index_t b = 0; b < 2; ++b)
      for (index_t head = 0; head < 3; ++head)
        for (index_t j = 5; j < s.keys; ++j)
          std::copy_n(&all->view()(b, head, 4, 0), all->extents[3], &all->view()(b, head, j, 0));
  reference::options with;
  with.visible = reference::causal_bottom_right();
  auto const expected = reference::softmax_attention<float>(in.query.view(), std::as_const(in.key).view(),
                                                            std::as_const(in.value).view(), with);
  auto cache = make<float>(s, 4, 6, 8);
  auto output = test::filled<float, 4>({2, 6, 50, 13}, 7);
  razor_attention(cache, std::as_const(in.query).view(), std::as_const(in.key).view(), std::as_const(in.value).view(),
                  output.view(), threads{2});
  EXPECT_TRUE(
      test::near(output.elements, expected.output, test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

// The prompt attends to all of itself; the next tokens to what is kept, as if the prompt had been appended in chunks.
TEST(RazorPrefill, AttendsToThePromptAndDropsAfterwards) {
  sizes const s = odd;
  auto const in = test::random_inputs<float>(s, 6);
  reference::options with;
  with.visible = reference::causal_bottom_right();
  auto const tokens = [](auto const& of, index_t first, index_t count) { return test::tokens_of(of, first, count); };
  auto const expected = reference::softmax_attention<float>(tokens(in.query, 0, 45), tokens(in.key, 0, 45),
                                                            tokens(in.value, 0, 45), with);
  auto cache = make<float>(s, 4, 6, 8), other = make<float>(s, 4, 6, 8);
  auto output = test::filled<float, 4>({2, 6, 45, 13}, 7), ignored = output;
  auto rows = test::filled<float, 3>({2, 6, 45}, 7);
  razor_prefill(cache, tokens(in.query, 0, 45), tokens(in.key, 0, 45), tokens(in.value, 0, 45), output.view(),
                log_sum_exp(rows.view()), threads{2});
  EXPECT_TRUE(
      test::near(output.elements, expected.output, test::tolerance<float>(test::largest_magnitude(in.value.elements))));
  EXPECT_TRUE(test::near(rows.elements, expected.log_sum_exp,
                         test::tolerance<float>(test::largest_magnitude(expected.log_sum_exp))));
  razor_attention(other, tokens(in.query, 0, 45), tokens(in.key, 0, 45), tokens(in.value, 0, 45), ignored.view());
  auto one = test::filled<float, 4>({2, 6, 5, 13}, 7), two = one;
  razor_attention(cache, tokens(in.query, 45, 5), tokens(in.key, 45, 5), tokens(in.value, 45, 5), one.view());
  razor_attention(other, tokens(in.query, 45, 5), tokens(in.key, 45, 5), tokens(in.value, 45, 5), two.view());
  EXPECT_EQ(one.elements, two.elements);
}

TEST(RazorPrefill, SaysWhatIsWrong) {
  sizes const s = odd;
  auto const in = test::random_inputs<float>(s, 7);
  auto output = test::filled<float, 4>({2, 6, 50, 13}, 7), narrow = test::filled<float, 4>({2, 6, 50, 12}, 7);
  auto cache = make<float>(s, 4, 6, 8);
  auto const call = [&](auto& to, auto const& q, auto const& k, auto const& v, auto const& o, auto const&... options) {
    razor_prefill(to, q, k, v, o, options...);
  };
  auto const q = in.query.view(), k = in.key.view(), v = in.value.view();
  expect_error("output: expected head dimension 13 (as the cache), got 12",
               [&] { call(cache, q, k, v, narrow.view()); });
  expect_error("key: expected tokens 50 (as query), got 49",
               [&] { call(cache, q, test::tokens_of(in.key, 0, 49), v, output.view()); });
  test::expect_scale_error([&](scale const& factor) { call(cache, q, k, v, output.view(), factor); });
  head_policy_cache small(paged_cache<float>(shape_of(s, 1), {.pages = 13, .page_tokens = 4}),
                          compensated_cache<float>(shape_of(s, 2), {4, 6}, 8), kinds);
  expect_error("key: expected at most 0 more tokens (sequence 1 has 0, 0 of 13 pages of 4 tokens are free), got 50",
               [&] { call(small, q, k, v, output.view()); });
  EXPECT_EQ(small.size(0), 0);
  EXPECT_EQ(cache.size(0), 0);
  for (float x : output.elements) ASSERT_EQ(x, 7);
  cache.append(0, detail::part(tensor_view<float const, 3>(&k(0, 0, 0, 0), {3, 50, 20}, {1000, 20, 1}), 1, 0, 2),
               detail::part(tensor_view<float const, 3>(&v(0, 0, 0, 0), {3, 50, 13}, {650, 13, 1}), 1, 0, 2));
  expect_error("cache: expected tokens 0 (as the prompt is to be its first), got 2",
               [&] { call(cache, q, k, v, output.view()); });
  EXPECT_EQ(cache.size(0), 2);
  for (float x : output.elements) ASSERT_EQ(x, 7);
}

TEST(CompensatedCache, CountsItsBytesAndKeepsThem) {
  compensated_cache<half> cache({2, 3, 5, 4}, {4, 10}, 2);
  rolling_cache<half> const rolling({2, 3, 5, 4}, {4, 10}, 2);
  EXPECT_EQ(cache.bytes(), rolling.bytes() + 2 * 3 * (5 + 4) * 8 + 5 * 4 + 2 * 8);
}

TEST(CompensatedCache, TakesBackWhatIsNotYetAveraged) {
  sizes s = odd;
  s.batches = 1;
  auto const in = test::random_inputs<float>(s, 4);
  auto const expected = reference::razor_attention<float>(in.query.view(), in.key.view(), in.value.view(), 2, 5,
                                                          [](index_t) { return true; });
  compensated_cache<float> cache(shape_of(s, 3), {2, 5}, 3);
  auto output = test::filled<float, 4>({1, 6, 50, 13}, 7);
  // Each time three tokens, of which the last is a wrong one that is taken back.
  for (index_t first = 0; first < 48; first += 2) {
    auto part = test::filled<float, 4>({1, 6, 2, 13}, 7);
    cache.append(0, test::tokens_of(in.key, 0, 3), test::tokens_of(in.value, 0, 3));
    cache.truncate(0, first);
    razor_attention(cache, test::tokens_of(in.query, first, 2), test::tokens_of(in.key, first, 2),
                    test::tokens_of(in.value, first, 2), test::tokens_of(output, first, 2));
  }
  double const allowed = test::tolerance<float>(test::largest_magnitude(in.value.elements));
  for (index_t head = 0; head < 6; ++head)
    for (index_t i = 0; i < 48; ++i)
      for (index_t c = 0; c < 13; ++c)
        EXPECT_NEAR(output.view()(0, head, i, c), expected.output[static_cast<std::size_t>((head * 50 + i) * 13 + c)],
                    allowed);
  expect_error("size: expected 0 to 2 or at least 46 tokens to stay, got 45", [&] { cache.truncate(0, 45); });
  cache.truncate(0, 46);
  cache.truncate(0, 1);
  EXPECT_EQ(cache.size(0), 1);
}

TEST(RazorAttention, SaysWhatIsWrong) {
  sizes const s = odd;
  auto const in = test::random_inputs<float>(s, 5);
  auto output = test::filled<float, 4>({2, 6, 50, 13}, 7), narrow = test::filled<float, 4>({2, 6, 50, 12}, 7);
  auto rows = test::filled<float, 3>({2, 6, 49}, 7);
  auto cache = make<float>(s, 4, 6, 8);
  expect_error("output: expected head dimension 13 (as the cache), got 12",
               [&] { razor_attention(cache, in.query.view(), in.key.view(), in.value.view(), narrow.view()); });
  expect_error("key: expected tokens 50 (as query), got 49", [&] {
    razor_attention(cache, in.query.view(), test::tokens_of(in.key, 0, 49), in.value.view(), output.view());
  });
  expect_error("value: expected tokens 50 (as query), got 49", [&] {
    razor_attention(cache, in.query.view(), in.key.view(), test::tokens_of(in.value, 0, 49), output.view());
  });
  expect_error("log_sum_exp: expected tokens 50 (as query), got 49", [&] {
    razor_attention(cache, in.query.view(), in.key.view(), in.value.view(), output.view(), log_sum_exp(rows.view()));
  });
  test::expect_scale_error([&](scale const& factor) {
    razor_attention(cache, in.query.view(), in.key.view(), in.value.view(), output.view(), factor);
  });
  expect_error("key: expected at most 8 tokens at a time (the cache's chunk), got 50",
               [&] { cache.append(in.key.view(), in.value.view()); });
  // Two sequences of 25 would fit, and so would the first chunks of 50.
  head_policy_cache small(paged_cache<float>(shape_of(s, 1), {.pages = 13, .page_tokens = 4}),
                          compensated_cache<float>(shape_of(s, 2), {4, 6}, 8), kinds);
  expect_error("key: expected at most 0 more tokens (sequence 1 has 0, 0 of 13 pages of 4 tokens are free), got 50",
               [&] { razor_attention(small, in.query.view(), in.key.view(), in.value.view(), output.view()); });
  EXPECT_EQ(small.size(0), 0);
  EXPECT_EQ(small.full().free_pages(), 13);
  // A chunk would write its log-sum-exp over the queries of a later one.
  auto query = in.query;
  tensor_view<float, 3> const over_queries(query.elements.data() + 20 * 20, {2, 6, 50});
  expect_error("log_sum_exp: expected memory of its own, got memory that overlaps query", [&] {
    razor_attention(cache, std::as_const(query).view(), in.key.view(), in.value.view(), output.view(),
                    log_sum_exp(over_queries));
  });
  EXPECT_EQ(query.elements, in.query.elements);
  EXPECT_EQ(cache.size(0), 0);
  EXPECT_EQ(cache.full().size(0), 0);
  for (float x : output.elements) ASSERT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
