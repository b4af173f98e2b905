// SPDX-License-Identifier: BSD-3-Clause
// SampleAttention: against its definition; dense where all mass is kept; stripes that are planted are found.
#include <attend/attention/sparse_prefill/sample_attention.hpp>
#include <attend/reference/sample_attention.hpp>

#include "support/chosen_inputs.hpp"
#include "support/selected.hpp"

namespace attend {
using namespace options;
using namespace systems;

namespace {

using test::odd;
using test::sizes;

template <class T>
testing::AssertionResult follows(test::inputs<T> const& in, sample_options const& settings, index_t stride,
                                 index_t window) {
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    sample_attention(q, k, v, o, settings, options...);
  });
  reference::options with;
  with.visible = reference::sampled_columns<T>(in.query.view(), in.key.view(), stride, settings.weight_sum, window,
                                               settings.most > 0 ? settings.most : in.size.keys);
  return test::agrees(in, got, with);
}
template <class T>
testing::AssertionResult follows(sizes const& s, sample_options const& settings, index_t stride, index_t window,
                                 unsigned seed) {
  return follows(test::random_inputs<T>(s, seed, 1.5), settings, stride, window);
}

TEST(SampleAttention, FollowsItsDefinition) {
  EXPECT_TRUE(follows<float>(odd, {.rows = 0.1, .weight_sum = 0.9, .window = 0.1}, 10, 19, 1));
  EXPECT_TRUE(follows<float>(odd, {.rows = 1, .weight_sum = 0.5, .window = 0}, 1, 0, 2));
  EXPECT_TRUE(follows<float>(odd, {.rows = 0.02, .weight_sum = 0.95, .window = 0.05, .most = 20}, 50, 10, 3));
  EXPECT_TRUE(follows<float>(odd, {.rows = 0.5, .weight_sum = 0, .window = 0.3}, 2, 55, 4));
}

TEST(SampleAttention, TakesManyQueriesInParts) {
  sizes const s{.query_heads = 2, .queries = 1000, .keys = 1000, .key_dimension = 16};
  EXPECT_TRUE(follows<float>(s, {.rows = 0.25, .weight_sum = 0.8, .window = 0.05}, 4, 50, 5));
}

TEST(SampleAttention, HasQueriesBeforeTheFirstKey) {
  EXPECT_TRUE(follows<float>({.queries = 30, .keys = 11}, {.rows = 0.5, .weight_sum = 0.7, .window = 0.2}, 2, 3, 6));
  EXPECT_TRUE(follows<float>({.queries = 1, .keys = 40}, {.rows = 0.5, .weight_sum = 0.7, .window = 0.1}, 2, 4, 7));
  EXPECT_TRUE(follows<float>({.queries = 3, .keys = 0}, {}, 20, 0, 8));
  EXPECT_TRUE(follows<float>({.queries = 0, .keys = 5}, {}, 20, 1, 9));
}

TEST(SampleAttention, FollowsItsDefinitionInOtherTypes) {
  sizes const s{.query_heads = 2, .queries = 90, .keys = 90, .key_dimension = 24, .value_dimension = 16};
  EXPECT_TRUE(follows<double>(s, {.rows = 0.1, .weight_sum = 0.8, .window = 0.1}, 10, 9, 10));
  EXPECT_TRUE(follows<bfloat16>(s, {.rows = 0.1, .weight_sum = 0.8, .window = 0.1}, 10, 9, 11));
}

// However small the fraction, the last query is sampled. What is below the normal range counts as zero, as everywhere.
TEST(SampleAttention, SamplesTheLastQueryAtLeast) {
  for (double rows : {1e-3, 1e-30, std::numeric_limits<double>::min()})
    EXPECT_TRUE(follows<float>(odd, {.rows = rows, .weight_sum = 0.6, .window = 0.1}, 1000, 19, 20));
  EXPECT_TRUE(follows<float>(odd, {.rows = 0.5, .weight_sum = 0.6, .window = 0.1, .most = 1}, 2, 19, 21));
}

// Of one sampled query equal keys have equal columns.
TEST(SampleAttention, TakesTheLowerOfEqualColumns) {
  EXPECT_TRUE(
      follows(test::whole_number_inputs<float>({.query_heads = 3, .queries = 150, .keys = 170, .key_dimension = 4}, 22),
              {.rows = 0.001, .weight_sum = 0.5, .window = 0}, 1000, 0));
}

TEST(SampleAttention, ShowsAValueToThoseThatSeeItsStripe) {
  EXPECT_TRUE(follows(test::with_nan_values(test::random_inputs<float>(odd, 23, 1.5)),
                      {.rows = 0.1, .weight_sum = 0.7, .window = 0.1}, 10, 19));
}

// The last query is always in the sample; a key that none of the sample looks at is found by nobody.
TEST(SampleAttention, FindsNeedlesOfTheSample) {
  sizes const s{.query_heads = 2, .queries = 1, .keys = 2000, .key_dimension = 64, .value_dimension = 8};
  auto const call = [](auto q, auto k, auto v, auto o, auto const&... options) {
    sample_attention(q, k, v, o, {.window = 0.01, .most = 80}, options...);
  };
  EXPECT_GE(test::mass_found(s, 100, call), 0.99);
}

TEST(SampleAttention, IsDenseWhereAllMassIsKept) {
  auto const in = test::random_inputs<float>(odd, 12);
  auto got = test::filled<float, 4>({2, 4, 170, 13}, 7), dense = got;
  sample_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), {.rows = 0.1, .weight_sum = 1});
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view(), causal{});
  EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(5)));
}

// Two keys that all queries look at are nearly all of the mass: just they, and the window, are computed.
TEST(SampleAttention, FindsPlantedStripes) {
  sizes const s{.queries = 1024, .keys = 1024, .key_dimension = 16};
  auto in = test::random_inputs<float>(s, 13, 0.3);
  for (index_t i = 0; i < 1024; ++i) in.query.view()(0, 0, i, 0) = 4;
  for (index_t j : {5, 300}) in.key.view()(0, 0, j, 0) = 20;
  auto got = test::filled<float, 4>({1, 1, 1024, 8}, 7), dense = got;
  tile_counts counts;
  sample_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), {.window = 0.01}, count_tiles(counts));
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view(), causal{});
  EXPECT_LE(counts.pairs, 1024 * (2 + 11 + 48));
  double planted = infinity<double>, other = -infinity<double>;
  for (index_t i = 400; i < 1024; ++i)
    for (index_t j = 0; j <= i; ++j) {
      double logit = 0;
      for (index_t c = 0; c < 16; ++c)
        logit += static_cast<double>(in.query.view()(0, 0, i, c)) * in.key.view()(0, 0, j, c) / 4;
      if (j == 5 || j == 300)
        planted = std::min(planted, logit);
      else
        other = std::max(other, logit);
    }
  // Without a share of the weights an output moves by that share of how far apart two means of values are.
  double const left_out = 1022 * std::exp(other) / (2 * std::exp(planted));
  double const largest = test::largest_magnitude(in.value.elements);
  double const allowed = left_out * 2 * largest + test::tolerance<float>(planted * largest);
  for (index_t i = 400; i < 1024; ++i)
    for (index_t c = 0; c < 8; ++c) EXPECT_NEAR(got.view()(0, 0, i, c), dense.view()(0, 0, i, c), allowed);
}

TEST(SampleAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 5, .keys = 9}, 14);
  auto output = test::filled<float, 4>({1, 1, 5, 8}, 7);
  auto const call = [&](sample_options const& settings, auto const&... options) {
    sample_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), settings, options...);
  };
  test::expect_error("sample_options: expected a fraction of rows from 0 to 1, got -1", [&] { call({.rows = -1}); });
  test::expect_error("sample_options: expected a fraction of weight_sum from 0 to 1, got 2",
                     [&] { call({.weight_sum = 2}); });
  test::expect_error("sample_options: expected a fraction of window from 0 to 1, got 3", [&] { call({.window = 3}); });
  test::expect_error("sample_options: expected at least 0 stripes, got -1", [&] { call({.most = -1}); });
  test::expect_scale_error([&](scale const& factor) { call({}, factor); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
