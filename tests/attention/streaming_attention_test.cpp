// SPDX-License-Identifier: BSD-3-Clause
// StreamingLLM's positions in the cache: against its definition, which numbers what is kept anew for every token; equal
// to rotary positions of the text as long as nothing is dropped; independent of where the text stands; wrong input.
#include <attend/attention/cached/streaming_attention.hpp>
#include <attend/reference/streaming_attention.hpp>

#include "support/cached_tokens.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace systems;

namespace {

using test::expect_error;
using test::sizes;

sizes const shape{.batches = 2,
                  .query_heads = 4,
                  .key_heads = 2,
                  .value_heads = 2,
                  .queries = 70,
                  .keys = 70,
                  .key_dimension = 12,
                  .value_dimension = 9};
cache_shape const of_cache{2, 2, 12, 9};
constexpr double base = 100;

template <class T, class Cache>
auto in_pieces(Cache& cache, test::inputs<T> const& in, index_t piece, rotary<rotary_frequencies> const& settings) {
  auto output = test::filled<T, 4>({2, 4, 70, 9}, T(7));
  for (index_t first = 0; first < 70; first += piece) {
    index_t const count = std::min<index_t>(piece, 70 - first);
    streaming_attention(cache, test::tokens_of(in.query, first, count), test::tokens_of(in.key, first, count),
                        test::tokens_of(in.value, first, count), test::tokens_of(output, first, count), settings);
  }
  return output;
}

template <class T>
void expect_definition(index_t sinks, index_t window, index_t chunk) {
  rotary const settings(rotary_frequencies(12, base));
  auto const in = test::random_inputs<T>(shape, 1);
  auto const expected =
      reference::streaming_attention<T>(in.query.view(), in.key.view(), in.value.view(), sinks, window, base);
  double const largest = test::largest_magnitude(in.value.elements);
  for (index_t piece : {1, 6, 70}) {
    rolling_cache<T> cache(of_cache, {sinks, window}, chunk);
    // Two parts are merged, each a softmax of rotated rows.
    EXPECT_TRUE(test::near(in_pieces(cache, in, piece, settings).elements, expected, 2 * test::tolerance<T>(largest)))
        << sinks << ' ' << window << ' ' << chunk << ' ' << piece;
  }
}

TEST(StreamingAttention, FollowsItsDefinition) {
  for (index_t sinks : {0, 1, 4})
    for (index_t window : {1, 10, 80})
      for (index_t chunk : {1, 8}) expect_definition<float>(sinks, window, chunk);
}

TEST(StreamingAttention, FollowsItsDefinitionInDouble) { expect_definition<double>(3, 12, 5); }

TEST(StreamingAttention, HasPositionsOfTheTextWhereNothingIsDropped) {
  rotary const settings(rotary_frequencies(12, base));
  auto const in = test::random_inputs<float>(shape, 2);
  rolling_cache<float> cache(of_cache, {4, 66}, 70), other(of_cache, {4, 66}, 70);
  auto const got = in_pieces(cache, in, 70, settings);
  auto expected = test::filled<float, 4>({2, 4, 70, 9}, 7);
  cached_attention(other, in.query.view(), in.key.view(), in.value.view(), expected.view(), settings);
  EXPECT_TRUE(test::near(got.elements, expected.elements, test::tolerance<float>(5)));
}

// The same tokens in the window, after a text of any length: the same outputs. Far out, angles of the text are large,
// and a query's and a key's are each rounded to half a turn's unit in the last place.
TEST(StreamingAttention, DoesNotSeeHowLongTheTextIs) {
  index_t const sinks = 2, window = 10, before = 100000;
  rotary const settings(rotary_frequencies(12, base));
  auto const in = test::random_inputs<float>(shape, 3);
  rolling_cache<float> near_cache(of_cache, {sinks, window}, 8), far_cache(of_cache, {sinks, window}, 8);
  auto short_text = test::filled<float, 4>({2, 4, 60, 9}, 7), long_text = short_text;
  for (auto* cache : {&near_cache, &far_cache})
    cache->append(test::tokens_of(in.key, 0, sinks), test::tokens_of(in.value, 0, sinks), settings);
  for (index_t filler = 0; filler < before; filler += 50)
    far_cache.append(test::tokens_of(in.key, 10, 50), test::tokens_of(in.value, 10, 50), settings);
  streaming_attention(near_cache, test::tokens_of(in.query, 10, 60), test::tokens_of(in.key, 10, 60),
                      test::tokens_of(in.value, 10, 60), short_text.view(), settings);
  streaming_attention(far_cache, test::tokens_of(in.query, 10, 60), test::tokens_of(in.key, 10, 60),
                      test::tokens_of(in.value, 10, 60), long_text.view(), settings);
  // Once the window holds the same tokens.
  double worst = 0;
  for (index_t h = 0; h < 4; ++h)
    for (index_t t = window; t < 60; ++t)
      for (index_t c = 0; c < 9; ++c)
        worst = std::max(worst,
                         std::abs(static_cast<double>(short_text.view()(1, h, t, c) - long_text.view()(1, h, t, c))));
  EXPECT_LE(worst, 4 * test::tolerance<float>(test::largest_magnitude(in.value.elements)));
}

TEST(StreamingAttention, GivesTheLogSumExpOfAllThatIsKept) {
  rotary const settings(rotary_frequencies(12, base));
  auto in = test::random_inputs<float>(shape, 4);
  // Without positions' influence: keys of zeros have logit 0, so the log-sum-exp counts them.
  std::fill(in.key.elements.begin(), in.key.elements.end(), 0.f);
  rolling_cache<float> cache(of_cache, {3, 10}, 8);
  auto output = test::filled<float, 4>({2, 4, 70, 9}, 7);
  auto rows = test::filled<float, 3>({2, 4, 70}, 7);
  streaming_attention(cache, in.query.view(), in.key.view(), in.value.view(), output.view(), settings,
                      log_sum_exp(rows.view()), threads{2}, scale{0.5}, softcap{4.f});
  // Whole numbers are summed up exactly: what is left are the 2 ulp of the weights and of the logarithm.
  for (index_t t = 0; t < 70; ++t) {
    double const exact = std::log(static_cast<double>(std::min<index_t>(t + 1, 13)));
    EXPECT_NEAR(rows.view()(1, 3, t), exact, 4 * test::unit_roundoff<float>() * (1 + exact)) << t;
  }
}

TEST(StreamingAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>(shape, 5);
  auto output = test::filled<float, 4>({2, 4, 70, 9}, 7);
  auto rows = test::filled<float, 3>({2, 4, 69}, 7);
  rolling_cache<float> cache(of_cache, {2, 8}, 10);
  rotary const fits(rotary_frequencies(12));
  auto const expect_refusal = [&](std::string const& message, auto const& settings, auto const&... options) {
    expect_error(message, [&] {
      streaming_attention(cache, in.query.view(), in.key.view(), in.value.view(), output.view(), settings, options...);
    });
    EXPECT_TRUE(std::all_of(output.elements.begin(), output.elements.end(), [](float x) { return x == 7; }));
    EXPECT_EQ(cache.size(0), 0);
    EXPECT_EQ(cache.size(1), 0);
  };
  expect_refusal("rotary: expected at most 12 channels (the head dimension), got 14", rotary(rotary_frequencies(14)));
  std::vector<std::int64_t> const positions(70);
  expect_refusal("rotary: expected the positions of the text, got positions of its own", fits.at(positions));
  expect_refusal("log_sum_exp: expected tokens 70 (as query), got 69", fits, log_sum_exp(rows.view()));
  expect_refusal("scale: expected a finite number, got inf", fits, scale(1e300));
  expect_refusal("threads: expected a count of at least 0, got -1", fits, threads{-1});
  auto const table = test::normal<float, 2>({69, 6}, 1);
  expect_refusal("rotary_table (cosine): expected positions from 0 to 68, got 69",
                 rotary(rotary_table(table.view(), table.view())));
  expect_error("key: expected tokens 70 (as query), got 69", [&] {
    streaming_attention(cache, in.query.view(), test::tokens_of(in.key, 0, 69), in.value.view(), output.view(), fits);
  });
}

}  // namespace
}  // namespace attend
