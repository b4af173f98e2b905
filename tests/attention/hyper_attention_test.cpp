// SPDX-License-Identifier: BSD-3-Clause
// HyperAttention: against its definition with the same draws, causal and not; dense where its pieces are exact.
#include <attend/attention/sparse_prefill/hyper_attention.hpp>
#include <attend/reference/hyper_attention.hpp>

#include "support/chosen_inputs.hpp"
#include "support/selected.hpp"

namespace attend {
using namespace options;
using namespace selection;
using namespace systems;

namespace {

using test::odd;
using test::sizes;

template <bool Causal, class T>
testing::AssertionResult follows(test::inputs<T> const& in, hyper_options const& settings, index_t bits,
                                 unsigned seed) {
  hash_directions const directions(bits, in.size.key_dimension, seed);
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    if constexpr (Causal)
      hyper_attention(q, k, v, o, directions, settings, options..., causal{});
    else
      hyper_attention(q, k, v, o, directions, settings, options...);
  });
  auto const expected = reference::hyper_attention<T>(
      in.query.view(), in.key.view(), in.value.view(), directions.view(),
      {settings.block, settings.samples, settings.exact_below},
      [&](index_t first_query, index_t t, index_t keys) {
        return detail::hyper_draw(settings.seed, first_query, t, keys);
      },
      Causal);
  double const largest = test::largest_magnitude(in.value.elements);
  if (auto result = test::near(got.output.elements, expected.output, test::tolerance<T>(largest)); !result)
    return result;
  return test::near(got.log_sum_exp.elements, expected.log_sum_exp, test::tolerance<accumulation_t<T>>(10));
}
template <bool Causal, class T>
testing::AssertionResult follows(sizes const& s, hyper_options const& settings, index_t bits, unsigned seed) {
  return follows<Causal>(test::random_inputs<T>(s, seed), settings, bits, seed);
}

TEST(HyperAttention, FollowsItsDefinition) {
  EXPECT_TRUE((follows<false, float>(odd, {16, 16, 0, 1}, 7, 1)));
  EXPECT_TRUE((follows<false, float>(odd, {50, 7, 100, 2}, 3, 2)));
  EXPECT_TRUE((follows<false, float>(odd, {16, 0, 0, 3}, 0, 3)));
  EXPECT_TRUE((follows<false, float>(odd, {1, 30, 0, 4}, 9, 4)));
  EXPECT_TRUE((follows<false, float>({.queries = 1000, .keys = 600}, {300, 64, 0, 5}, 7, 5)));
}

TEST(HyperAttention, FollowsItsCausalDefinition) {
  sizes s = odd;
  s.keys = s.queries = 181;
  EXPECT_TRUE((follows<true, float>(s, {8, 16, 20, 1}, 7, 6)));
  EXPECT_TRUE((follows<true, float>(s, {8, 5, 1, 2}, 4, 7)));
  EXPECT_TRUE((follows<true, float>({.queries = 900, .keys = 900}, {64, 32, 120, 3}, 7, 8)));
  EXPECT_TRUE((follows<true, float>({.queries = 0, .keys = 0}, {}, 7, 9)));
  EXPECT_TRUE((follows<true, float>({.queries = 1, .keys = 1}, {}, 7, 10)));
}

TEST(HyperAttention, FollowsItsDefinitionInOtherTypes) {
  sizes const s{.query_heads = 2, .queries = 90, .keys = 90, .key_dimension = 24, .value_dimension = 16};
  EXPECT_TRUE((follows<true, double>(s, {8, 8, 20, 1}, 7, 11)));
  EXPECT_TRUE((follows<false, bfloat16>(s, {8, 8, 20, 1}, 7, 12)));
}

TEST(HyperAttention, ShowsAValueToThoseThatSeeIt) {
  sizes s = odd;
  s.keys = s.queries;
  auto const in = test::with_nan_values(test::random_inputs<float>(s, 20));
  EXPECT_TRUE((follows<false>(in, {16, 8, 0, 1}, 7, 20)));
  EXPECT_TRUE((follows<true>(in, {8, 4, 20, 1}, 7, 21)));
}

// Over the draws, the estimate of a row's denominator is the denominator: the logits' correction is right.
TEST(HyperAttention, EstimatesWithoutBias) {
  sizes const s{.queries = 32, .keys = 256, .key_dimension = 16};
  auto const in = test::random_inputs<float>(s, 22, 0.5);
  hash_directions const directions(5, 16, 1);
  auto output = test::filled<float, 4>({1, 1, 32, 8}, 0);
  auto exact = test::filled<float, 3>({1, 1, 32}, 0), rows = exact;
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), log_sum_exp(exact.view()));
  constexpr int draws = 400;
  std::vector<double> ratio(32, 0.0);
  for (std::uint64_t seed = 0; seed < draws; ++seed) {
    hyper_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), directions,
                    hyper_options{32, 64, 0, seed}, log_sum_exp(rows.view()));
    for (std::size_t i = 0; i < 32; ++i) ratio[i] += std::exp(rows.elements[i] - exact.elements[i]) / draws;
  }
  // A weight that is drawn has the deviation of the row's weights: 64 of them, 400 times. Six deviations of their mean.
  for (index_t i = 0; i < 32; ++i) {
    double sum = 0, squares = 0;
    for (index_t j = 0; j < 256; ++j) {
      double logit = 0;
      for (index_t c = 0; c < 16; ++c)
        logit += static_cast<double>(in.query.view()(0, 0, i, c)) * in.key.view()(0, 0, j, c) / 4;
      sum += std::exp(logit);
      squares += std::exp(2 * logit);
    }
    double const deviation = std::sqrt(256 * squares / (sum * sum) - 1);
    EXPECT_NEAR(ratio[static_cast<std::size_t>(i)], 1, 6 * deviation / std::sqrt(64.0 * draws));
  }
}

TEST(HyperAttention, IsDenseWhereItsPiecesAreExact) {
  sizes s = odd;
  s.keys = s.queries;
  auto const in = test::random_inputs<float>(s, 13);
  hash_directions const directions(7, 20, 1);
  auto got = test::filled<float, 4>({2, 4, 170, 13}, 7), dense = got;
  // The recursion alone, with exact pieces: one block holds all keys.
  hyper_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), directions, {170, 16, 10, 0}, causal{});
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view(), causal{});
  EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(5)));
  hyper_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), directions, {8, 16, 4096, 0});
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view());
  EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(5)));
}

TEST(HyperAttention, NeighbouringBucketsDifferInOneBit) {
  std::vector<std::uint32_t> code_at(64);
  for (std::uint32_t code = 0; code < 64; ++code) code_at[detail::gray_place(code)] = code;
  for (std::size_t i = 1; i < 64; ++i) EXPECT_EQ(std::popcount(code_at[i] ^ code_at[i - 1]), 1);
}

TEST(HyperAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 5, .keys = 9}, 14);
  auto output = test::filled<float, 4>({1, 1, 5, 8}, 7);
  hash_directions const directions(7, 8, 1), other(7, 9, 1);
  auto const call = [&](hash_directions const& with, hyper_options const& settings, auto... options) {
    hyper_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), with, settings, options...);
  };
  test::expect_error("directions: expected dimension 8 (as query), got 9", [&] { call(other, {}); });
  test::expect_error("hyper_options: expected blocks of 1 to 536870911 keys, got 0", [&] { call(directions, {0}); });
  test::expect_error("hyper_options: expected 0 to 536870911 samples, got -1", [&] { call(directions, {1, -1}); });
  test::expect_error("key: expected tokens 5 (as query: causal), got 9", [&] { call(directions, {}, causal{}); });
  test::expect_error("causal: expected the last query at the last key (offset 0), got offset 3", [&] {
    hyper_attention(in.query.view(), in.query.view(), in.query.view(), output.view(), directions, {},
                    causal{offset(3)});
  });
  test::expect_error("hash_directions: expected 0 to 16 bits, got 17", [] { hash_directions(17, 8, 1); });
  test::expect_scale_error([&](scale const& factor) { call(directions, {}, factor); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
