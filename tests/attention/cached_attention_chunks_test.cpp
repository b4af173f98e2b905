// SPDX-License-Identifier: BSD-3-Clause
// A prompt that a cache with a window takes in chunks: options speak of the whole call, as they do where all keys and
// queries lie in tensors and the mask alone says what the cache keeps.
#include <attend/cache/head_policy.hpp>
#include <attend/cache/rolling.hpp>
#include <attend/policy/gain.hpp>
#include <attend/policy/mask/boolean_mask.hpp>
#include <attend/policy/mask/documents.hpp>
#include <attend/policy/mask/intervals.hpp>
#include <attend/policy/mask/parts.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/mask/prefix_lm.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/normalizer/sinks.hpp>
#include <attend/policy/position/rotary.hpp>
#include <attend/policy/score/alibi.hpp>
#include <attend/policy/score/bias.hpp>
#include <attend/policy/score/logit_scale.hpp>

#include "support/any_policy.hpp"
#include "support/cached_tokens.hpp"

namespace attend {
using namespace options;
using namespace caches;

namespace {

constexpr index_t before = 7, tokens = 36, keys = before + tokens;
test::sizes const shape{.batches = 2,
                        .query_heads = 4,
                        .key_heads = 2,
                        .value_heads = 2,
                        .queries = tokens,
                        .keys = keys,
                        .key_dimension = 16,
                        .value_dimension = 12};
streaming const kept{2, 8};

class CachedAttentionChunks : public testing::Test {
 protected:
  test::inputs<float> const in = test::random_inputs<float>(shape, 1);
  test::tensor<float, 4> expected = test::filled<float, 4>({2, 4, tokens, 12}, 7);
  test::tensor<float, 4> got = test::filled<float, 4>({2, 4, tokens, 12}, 9);

  double allowed() const { return test::tolerance<float>(test::largest_magnitude(in.value.elements)); }

  /// The call with a cache, whose chunks are as long as that, from `before` tokens on.
  template <class... Options>
  void attend_in_chunks(index_t chunk, Options const&... options) {
    rolling_cache<float> cache({2, 2, 16, 12}, kept, chunk);
    cache.append(test::tokens_of(in.key, 0, before), test::tokens_of(in.value, 0, before));
    cached_attention(cache, in.query.view(), test::tokens_of(in.key, before, tokens),
                     test::tokens_of(in.value, before, tokens), got.view(), options...);
  }

  template <class... Options>
  void expect_the_same(test::any_mask const& mask, Options const&... options) {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), expected.view(), test::any_mask(kept & mask),
                      options...);
    for (index_t chunk : {1, 5, 36, 50}) {
      std::fill(got.elements.begin(), got.elements.end(), 9.f);
      attend_in_chunks(chunk, mask, options...);
      EXPECT_TRUE(test::near(got.elements, expected.elements, 2 * allowed())) << chunk;
    }
  }
};

TEST_F(CachedAttentionChunks, TakeMasksOfPositions) {
  expect_the_same(causal{});
  expect_the_same(window{4, 0});
  expect_the_same(window{-1, 0});
  expect_the_same(prefix_lm(20));
  expect_the_same(causal{} & !keys_in(3, 9));
  expect_the_same(mask([](auto query, auto key) { return query - key != 2; }));
}

// These count queries from the first of the call.
TEST_F(CachedAttentionChunks, TakeMasksOfQueries) {
  expect_the_same(causal{top_left});
  expect_the_same(causal{offset(3)});
  expect_the_same(window{2, 5, top_left});
  expect_the_same(mask([](auto const& at) { return at.query_index() / 3 * 3 != at.key_position; }));
  std::vector<std::int32_t> first(tokens), last(tokens), ids(keys);
  for (index_t i = 0; i < tokens; ++i) first[std::size_t(i)] = int(i), last[std::size_t(i)] = int(i + before + 1);
  expect_the_same(intervals(first, last));
  for (index_t j = 0; j < keys; ++j) ids[std::size_t(j)] = int(j / 9 % 3);
  expect_the_same(documents(std::span(ids).subspan(before), ids));
}

TEST_F(CachedAttentionChunks, TakeTensorsOfPairsAndRows) {
  auto truths = std::make_unique<bool[]>(std::size_t(4 * tokens * keys));
  for (index_t i = 0; i < 4 * tokens * keys; ++i) truths[std::size_t(i)] = i * 7 % 5 != 0;
  expect_the_same(boolean_mask(tensor_view<bool const, 4>(truths.get(), {1, 4, tokens, keys})));
  auto const pairs = test::normal<float, 4>({2, 1, tokens, keys}, 3);
  expect_the_same(full{}, test::any_score(bias(pairs.view())));
  auto const factors = test::normal<float, 3>({2, 4, tokens}, 4);
  expect_the_same(causal{}, test::any_score(query_logit_scale(factors.view())));
}

TEST_F(CachedAttentionChunks, TakeScoresNormalizersAndGates) {
  auto const slopes = alibi_slopes(4);
  expect_the_same(full{}, test::any_score(alibi(slopes)));
  expect_the_same(causal{}, test::any_score(score([](auto s, auto const& at) {
                    return s + decltype(s)(0.1f) * at.query_index() - decltype(s)(0.2f) * at.key_position;
                  })));
  expect_the_same(full{}, sinks{0.5});
  auto gates = test::filled<float, 2>({2, 4}, 0.5f);
  gates.view()(1, 2) = 0;
  expect_the_same(causal{}, head_gates(gates.view()));
}

TEST_F(CachedAttentionChunks, GiveOutputsOfTheWholeCall) {
  auto rows = test::filled<float, 3>({2, 4, tokens}, 7), cut_rows = rows;
  auto pairs = test::filled<float, 4>({2, 4, tokens, keys}, 7), cut_pairs = pairs;
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), expected.view(), kept, log_sum_exp(rows.view()),
                    weights(pairs.view()));
  for (index_t chunk : {1, 5}) {
    attend_in_chunks(chunk, log_sum_exp(cut_rows.view()), weights(cut_pairs.view()), threads{2});
    EXPECT_TRUE(test::near(got.elements, expected.elements, allowed()));
    EXPECT_TRUE(test::near(cut_rows.elements, rows.elements, test::tolerance<float>(4)));
    EXPECT_TRUE(test::near(cut_pairs.elements, pairs.elements, test::tolerance<float>(1)));
  }
}

TEST_F(CachedAttentionChunks, AreCutForSomeHeadsToo) {
  std::vector<std::int32_t> const kinds{0, 1};
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), expected.view(),
                    streaming{2, 8, kinds} & causal{top_left});
  head_policy_cache cache(contiguous_cache<float>({2, 1, 16, 12}, keys), rolling_cache<float>({2, 1, 16, 12}, kept, 5),
                          kinds);
  cache.append(test::tokens_of(in.key, 0, before), test::tokens_of(in.value, 0, before));
  cached_attention(cache, in.query.view(), test::tokens_of(in.key, before, tokens),
                   test::tokens_of(in.value, before, tokens), got.view(), causal{top_left});
  EXPECT_TRUE(test::near(got.elements, expected.elements, 2 * allowed()));
}

TEST_F(CachedAttentionChunks, SayWhatIsWrongOfTheWholeCall) {
  auto const refuse = [&](std::string const& message, auto const&... options) {
    test::expect_error(message, [&] { attend_in_chunks(5, options...); });
    for (float x : got.elements) ASSERT_EQ(x, 9);
  };
  auto const rows = test::filled<float, 3>({2, 4, 5}, 7);
  refuse(
      "query_logit_scale: expected shape [2, 4, 36] (batch, query head, query) with 1 for an axis that is shared, "
      "got [2, 4, 5]",
      query_logit_scale(rows.view()));
  std::vector<std::int32_t> positions(2 * tokens);
  refuse("query: expected at most 5 tokens at a time (the cache's chunk) beside rotary.at(queries, keys), got 36",
         rotary(rotary_frequencies(16)).at(positions, positions));
}

}  // namespace
}  // namespace attend
