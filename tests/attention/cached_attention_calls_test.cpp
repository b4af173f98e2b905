// SPDX-License-Identifier: BSD-3-Clause
// Calls on a cache: options that hold something for positions or keys, and what is refused, with nothing written.
#include <attend/attention/softmax/rotary_embedding.hpp>
#include <attend/cache/head_policy.hpp>
#include <attend/cache/paged.hpp>
#include <attend/cache/rolling.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/position/rotary.hpp>

#include "support/cached_tokens.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace extend;

namespace {

using test::expect_error;
using test::sizes;

sizes const shape{.batches = 2,
                  .query_heads = 4,
                  .key_heads = 2,
                  .value_heads = 2,
                  .queries = 40,
                  .keys = 40,
                  .key_dimension = 16,
                  .value_dimension = 12};
cache_shape const of_cache{2, 2, 16, 12};

class CachedAttentionCalls : public testing::Test {
 protected:
  test::inputs<float> const in = test::random_inputs<float>(shape, 1);
  test::tensor<float, 4> output = test::filled<float, 4>({2, 4, 40, 12}, 7);
  paged_cache<float> paged{of_cache, {.pages = 20, .page_tokens = 5}};
  rolling_cache<float> rolling{of_cache, {2, 8}, 10};

  double allowed() const { return test::tolerance<float>(test::largest_magnitude(in.value.elements)); }

  template <class Call>
  void expect_refusal(std::string const& message, Call&& call) {
    index_t const paged_size = paged.size(0), rolling_size = rolling.size(0);
    expect_error(message, call);
    EXPECT_TRUE(std::all_of(output.elements.begin(), output.elements.end(), [](float x) { return x == 7; }));
    EXPECT_EQ(paged.size(0), paged_size);
    EXPECT_EQ(paged.size(1), paged_size);
    EXPECT_EQ(rolling.size(0), rolling_size);
    EXPECT_EQ(rolling.size(1), rolling_size);
  }
};

// Keys that are kept unrotated are rotated as they are read, at the positions of the text.
TEST_F(CachedAttentionCalls, RotateWhatIsKeptUnrotated) {
  rotary const position{rotary_frequencies(16)};
  auto query = in.query, key = in.key;
  rotary_embedding(in.query.view(), position, query.view());
  rotary_embedding(in.key.view(), position, key.view());
  reference::options with;
  with.visible = [](reference::place const& at) {
    return at.key <= at.position() && (at.key < 2 || at.position() - at.key < 8);
  };
  auto const expected = reference::softmax_attention<float>(std::as_const(query).view(), std::as_const(key).view(),
                                                            in.value.view(), with);
  for (index_t first = 0; first < 40; first += 10)
    cached_attention(rolling, test::tokens_of(in.query, first, 10), test::tokens_of(in.key, first, 10),
                     test::tokens_of(in.value, first, 10), test::tokens_of(output, first, 10), position);
  EXPECT_TRUE(test::near(output.elements, expected.output, 2 * allowed()));
}

// Weights have the length of the text; those of dropped tokens are zero.
TEST_F(CachedAttentionCalls, WeighDroppedTokensNot) {
  for (index_t queries : {1, 10}) {
    rolling_cache<float> cache(of_cache, {2, 8}, 10);
    cache.append(test::tokens_of(in.key, 0, 40 - queries), test::tokens_of(in.value, 0, 40 - queries));
    reference::options with;
    with.visible = [](reference::place const& at) {
      return at.key <= at.position() && (at.key < 2 || at.position() - at.key < 8);
    };
    auto const query = test::tokens_of(in.query, 40 - queries, queries);
    auto const expected = reference::softmax_attention<float>(query, in.key.view(), in.value.view(), with);
    auto part = test::filled<float, 4>({2, 4, queries, 12}, 7);
    auto pairs = test::filled<float, 4>({2, 4, queries, 40}, 7);
    cached_attention(cache, query, test::tokens_of(in.key, 40 - queries, queries),
                     test::tokens_of(in.value, 40 - queries, queries), part.view(), weights(pairs.view()));
    EXPECT_TRUE(test::near(part.elements, expected.output, allowed())) << queries;
    EXPECT_TRUE(test::near(pairs.elements, expected.weights, test::tolerance<float>(1))) << queries;
  }
}

// A key that was never appended has no influence, whatever its memory holds; nor has a hidden one that is NaN.
TEST_F(CachedAttentionCalls, SeeNothingOfHiddenTokens) {
  auto key = in.key, value = in.value;
  for (index_t b = 0; b < 2; ++b)
    for (index_t head = 0; head < 2; ++head) {
      std::fill_n(&key.view()(b, head, 3, 0), 16, std::numeric_limits<float>::quiet_NaN());
      std::fill_n(&value.view()(b, head, 3, 0), 12, infinity<float>);
    }
  reference::options with;
  with.visible = [](reference::place const& at) { return at.key <= at.position() && at.key != 3; };
  auto const expected = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  paged_cache<std::int8_t> bytes(of_cache, {.pages = 20, .page_tokens = 5});
  auto const hide = mask([](auto const&, auto const& position) { return position != 3; });
  cached_attention(paged, in.query.view(), std::as_const(key).view(), std::as_const(value).view(), output.view(), hide);
  EXPECT_TRUE(test::near(output.elements, expected.output, allowed()));
  cached_attention(bytes, in.query.view(), std::as_const(key).view(), std::as_const(value).view(), output.view(), hide);
  for (float x : output.elements) ASSERT_TRUE(std::isfinite(x));
}

TEST_F(CachedAttentionCalls, AreLegalWithoutTokensOrHeads) {
  auto none = test::filled<float, 4>({2, 4, 0, 12}, 0);
  cached_attention(paged, test::tokens_of(in.query, 0, 0), test::tokens_of(in.key, 0, 0),
                   test::tokens_of(in.value, 0, 0), none.view());
  EXPECT_EQ(paged.size(0), 0);
  paged_cache<float> empty({2, 0, 16, 12}, {.pages = 2});
  auto const heads = test::filled<float, 4>({2, 0, 3, 16}, 0), values = test::filled<float, 4>({2, 0, 3, 12}, 0);
  auto out = test::filled<float, 4>({2, 0, 3, 12}, 0);
  cached_attention(empty, heads.view(), heads.view(), values.view(), out.view());
  EXPECT_EQ(empty.size(0), 3);
  // A query without any token in the cache sees nothing.
  auto one = test::filled<float, 4>({2, 4, 1, 12}, 7);
  softmax_attention(test::tokens_of(in.query, 0, 1), paged, one.view());
  for (float x : one.elements) EXPECT_EQ(x, 0);
}

TEST_F(CachedAttentionCalls, SayWhatIsWrong) {
  auto const call = [&](auto& cache, auto const& query, auto const& key, auto const& value, auto&& out,
                        auto const&... options) { cached_attention(cache, query, key, value, out, options...); };
  auto const q = in.query.view(), k = in.key.view(), v = in.value.view();
  auto const o = output.view();
  auto narrow = test::filled<float, 4>({2, 4, 40, 11}, 7);
  auto rows = test::filled<float, 3>({2, 4, 39}, 7);
  auto const wide = test::filled<float, 4>({2, 4, 40, 17}, 1), three = test::filled<float, 4>({2, 3, 40, 16}, 1);
  expect_refusal("query: expected head dimension 16 (as the cache), got 17",
                 [&] { call(paged, wide.view(), k, v, o); });
  expect_refusal("query: expected a multiple of 2 heads (the cache), got 3",
                 [&] { call(paged, three.view(), k, v, o); });
  expect_refusal("output: expected head dimension 12 (as the cache), got 11",
                 [&] { call(paged, q, k, v, narrow.view()); });
  expect_refusal("key: expected tokens 40 (as query), got 39",
                 [&] { call(paged, q, test::tokens_of(in.key, 0, 39), v, o); });
  expect_refusal("value: expected tokens 40 (as query), got 39",
                 [&] { call(rolling, q, k, test::tokens_of(in.value, 0, 39), o); });
  expect_refusal("key: expected heads 2 (as the cache), got 4", [&] { call(paged, q, q, v, o); });
  expect_refusal("output: expected memory of its own, got memory that overlaps value", [&] {
    call(paged, test::tokens_of(in.query, 0, 1), test::tokens_of(in.key, 0, 1),
         tensor_view<float const, 4>(o.data(), {2, 2, 1, 12}, o.strides()), test::tokens_of(output, 0, 1));
  });
  expect_refusal("scale: expected a finite number, got inf", [&] { call(paged, q, k, v, o, scale(infinity<double>)); });
  expect_refusal("scale: expected a finite number, got inf", [&] { call(rolling, q, k, v, o, scale(1e300)); });
  expect_refusal("log_sum_exp: expected tokens 40 (as query), got 39",
                 [&] { call(paged, q, k, v, o, log_sum_exp(rows.view())); });
  expect_refusal("log_sum_exp: expected tokens 40 (as query), got 39",
                 [&] { call(rolling, q, k, v, o, log_sum_exp(rows.view())); });
  call(paged, q, k, v, o);
  std::fill(output.elements.begin(), output.elements.end(), 7.0f);
  expect_refusal("key: expected at most 20 more tokens (sequence 0 has 40, 4 of 20 pages of 5 tokens are free), got 40",
                 [&] { call(paged, q, k, v, o); });
}

TEST_F(CachedAttentionCalls, KeepTokensWhereAMaskThrows) {
  auto const call = [&](bool fails) {
    cached_attention(paged, in.query.view(), in.key.view(), in.value.view(), output.view(),
                     mask([=](auto query, auto key) {
                       if (fails) throw std::runtime_error("the mask's own");
                       return query == key;
                     }));
  };
  EXPECT_THROW(call(true), std::runtime_error);
  for (index_t sequence : {0, 1}) {
    EXPECT_EQ(paged.size(sequence), 40);
    paged.truncate(sequence, 0);
  }
  call(false);
  EXPECT_EQ(paged.size(0), 40);
  for (index_t token = 0; token < 40; ++token)
    EXPECT_EQ(output.view()(1, 3, token, 5), in.value.view()(1, 1, token, 5));
}

// What appending does (a ring drops, a shared page is copied) cannot be taken back: nothing is appended before all is
// known to be right.
TEST_F(CachedAttentionCalls, LeaveAFullRingAndSharedPagesAsTheyWere) {
  auto rows = test::filled<float, 3>({2, 4, 3}, 7);
  auto const refuse = [&](auto& cache) {
    expect_error("log_sum_exp: expected tokens 4 (as query), got 3", [&] {
      cached_attention(cache, test::tokens_of(in.query, 0, 4), test::tokens_of(in.key, 0, 4),
                       test::tokens_of(in.value, 0, 4), test::tokens_of(output, 0, 4), log_sum_exp(rows.view()));
    });
  };
  for (index_t first = 0; first < 40; first += 10)
    rolling.append(test::tokens_of(in.key, first, 10), test::tokens_of(in.value, first, 10));
  EXPECT_EQ(rolling.stored(0, 0), 2 + 7 + 10);
  refuse(rolling);
  EXPECT_EQ(rolling.stored(0, 0), 2 + 7 + 10);
  rolling.truncate(0, 30);
  paged.append(0, tensor_view<float const, 3>(in.key.elements.data(), {2, 7, 16}, {40 * 16, 16, 1}),
               tensor_view<float const, 3>(in.value.elements.data(), {2, 7, 12}, {40 * 12, 12, 1}));
  paged.fork(0, 1);
  refuse(paged);
  EXPECT_EQ(paged.free_pages(), 18);
}

// Also where tokens are cut into chunks, of which the first would have room.
TEST_F(CachedAttentionCalls, AppendAllChunksOrNone) {
  std::vector<std::int32_t> const kinds{0, 1};
  head_policy_cache cache(paged_cache<float>({2, 1, 16, 12}, {.pages = 4, .page_tokens = 5}),
                          rolling_cache<float>({2, 1, 16, 12}, {2, 8}, 4), kinds);
  expect_error("key: expected at most 5 more tokens (sequence 1 has 0, 1 of 4 pages of 5 tokens are free), got 12",
               [&] {
                 cached_attention(cache, test::tokens_of(in.query, 0, 12), test::tokens_of(in.key, 0, 12),
                                  test::tokens_of(in.value, 0, 12), test::tokens_of(output, 0, 12));
               });
  EXPECT_EQ(cache.size(0), 0);
  EXPECT_EQ(cache.streaming_heads().size(0), 0);
  EXPECT_EQ(cache.full().free_pages(), 4);
  for (float x : output.elements) ASSERT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
