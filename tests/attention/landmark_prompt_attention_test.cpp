// SPDX-License-Identifier: BSD-3-Clause
// Landmark attention over a prompt: against the grouped softmax; dense where there is one block; the decoding form.
#include <attend/attention/sparse_decode/landmark_attention.hpp>
#include <attend/attention/sparse_prefill/landmark_prompt_attention.hpp>
#include <attend/reference/landmark_attention.hpp>

#include "support/chosen_inputs.hpp"
#include "support/count_allocations.hpp"
#include "support/selected.hpp"
#include "support/selection.hpp"

namespace attend {
using namespace systems;

namespace {

using test::odd;
using test::sizes;

template <class T>
testing::AssertionResult follows(test::inputs<T> const& in, index_t block) {
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    landmark_prompt_attention(q, k, v, o, block, options...);
  });
  auto const expected = reference::landmark_prompt_attention<T>(in.query.view(), in.key.view(), in.value.view(), block);
  // A token of an earlier block has a product of two weights: their errors add.
  double const allowed = 2 * test::tolerance<T>(test::largest_magnitude(in.value.elements));
  if (auto result = test::near(got.output.elements, expected.output, allowed); !result) return result;
  return test::near(got.log_sum_exp.elements, expected.log_sum_exp, test::tolerance<accumulation_t<T>>(10));
}
template <class T>
testing::AssertionResult follows(sizes const& s, index_t block, unsigned seed) {
  return follows(test::random_inputs<T>(s, seed), block);
}

TEST(LandmarkPromptAttention, FollowsItsDefinition) {
  for (index_t block : {2, 3, 9, 51, 61, 183, 184, 500}) EXPECT_TRUE(follows<float>(odd, block, 1)) << block;
}

TEST(LandmarkPromptAttention, FollowsItsDefinitionForAnyHeads) {
  for (index_t key_heads : {1, 3, 6})
    for (index_t value_heads : {1, 2, 6})
      EXPECT_TRUE(follows<float>({.batches = 2,
                                  .query_heads = 6,
                                  .key_heads = key_heads,
                                  .value_heads = value_heads,
                                  .queries = 41,
                                  .keys = 50,
                                  .key_dimension = 16,
                                  .value_dimension = 24},
                                 7, 2))
          << key_heads << ", " << value_heads;
  EXPECT_TRUE(follows<float>({.query_heads = 500, .queries = 3, .keys = 40}, 6, 3));
}

TEST(LandmarkPromptAttention, TakesManyRowsAndLongBlocksInParts) {
  EXPECT_TRUE(follows<float>({.query_heads = 2, .queries = 900, .keys = 900}, 11, 4));
  EXPECT_TRUE(follows<float>({.queries = 500, .keys = 701}, 300, 5));
}

TEST(LandmarkPromptAttention, HasFewOrNoTokens) {
  for (index_t keys : {0, 1, 2, 5, 6, 7, 12, 13})
    for (index_t queries : {0, 1, 2, 6, 30})
      EXPECT_TRUE(follows<float>({.query_heads = 2, .queries = queries, .keys = keys}, 6, 6))
          << queries << " queries, " << keys << " keys";
  EXPECT_TRUE(follows<float>({.queries = 20, .keys = 20, .value_dimension = 0}, 6, 7));
  EXPECT_TRUE(follows<float>({.batches = 0, .queries = 20, .keys = 20}, 6, 8));
}

TEST(LandmarkPromptAttention, FollowsItsDefinitionInOtherTypes) {
  sizes const s{
      .query_heads = 4, .key_heads = 2, .queries = 90, .keys = 93, .key_dimension = 24, .value_dimension = 19};
  EXPECT_TRUE(follows<double>(s, 16, 9));
  EXPECT_TRUE(follows<bfloat16>(s, 16, 10));
}

// Landmarks whose logits are far from those of their blocks: the weights of a block are its landmark's, whatever the
// tokens' own logits are.
TEST(LandmarkPromptAttention, WeighsABlockByItsLandmarkAlone) {
  auto in = test::random_inputs<float>({.queries = 60, .keys = 60}, 11);
  for (index_t j = 0; j < 60; ++j)
    for (index_t c = 0; c < 8; ++c) in.key.view()(0, 0, j, c) *= j % 10 == 9 ? 0.1f : 8;
  EXPECT_TRUE(follows(in, 10));
  for (index_t j = 9; j < 60; j += 10)
    for (index_t c = 0; c < 8; ++c) in.key.view()(0, 0, j, c) *= 100;
  EXPECT_TRUE(follows(in, 10));
}

TEST(LandmarkPromptAttention, OfOneBlockIsCausalSoftmaxAttention) {
  auto const in = test::random_inputs<float>(odd, 12);
  auto got = test::filled<float, 4>({2, 4, 170, 13}, 7), dense = got;
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view(), causal{}, scale(0.3f));
  for (index_t block : {index_t{184}, index_t{1000}, std::numeric_limits<index_t>::max()}) {
    landmark_prompt_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), block, scale(0.3f));
    EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(5)));
  }
}

TEST(LandmarkPromptAttention, OfTheLastQueryIsTheDecodingForm) {
  for (index_t tokens : {1, 6, 7, 8, 62, 63, 64, 200}) {
    sizes const s{2, 6, 2, 2, 1, tokens, 20, 13};
    auto const in = test::random_inputs<float>(s, static_cast<unsigned>(tokens));
    auto const cache = test::filled_cache<float>(in);
    landmark_selector<float> selector(test::shape_of(s), 6, tokens, 40, 7);
    selector.update(cache);
    auto step = test::filled<float, 4>({2, 6, 1, 13}, 7), got = step;
    landmark_attention(in.query.view(), cache, selector, step.view());
    landmark_prompt_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), 7);
    EXPECT_TRUE(test::near(got.elements, step.elements, 2 * test::tolerance<float>(5))) << tokens;
  }
}

// Values of landmarks are nobody's; a token is hidden from those before it, a landmark also from its own block.
TEST(LandmarkPromptAttention, IsNotTouchedByWhatIsHidden) {
  auto in = test::random_inputs<float>({.query_heads = 2, .queries = 64, .keys = 64}, 13);
  auto const clean = in;
  float const wrong = std::numeric_limits<float>::quiet_NaN();
  for (index_t c = 0; c < 8; ++c) {
    for (index_t j = 9; j < 64; j += 10) in.value.view()(0, 0, j, c) = wrong;
    in.value.view()(0, 0, 44, c) = in.key.view()(0, 0, 39, c) = in.key.view()(0, 0, 47, c) = wrong;
  }
  auto got = test::filled<float, 4>({1, 2, 64, 8}, 7), expected = got;
  landmark_prompt_attention(clean.query.view(), clean.key.view(), clean.value.view(), expected.view(), 10);
  test::inputs<float> const& hidden = in;
  landmark_prompt_attention(hidden.query.view(), hidden.key.view(), hidden.value.view(), got.view(), 10);
  for (index_t h : {0, 1})
    for (index_t i = 40; i < 64; ++i)
      for (index_t c = 0; c < 8; ++c) expected.view()(0, h, i, c) = wrong;
  EXPECT_TRUE(test::near(got.elements, expected.elements, test::tolerance<float>(5)));
}

TEST(LandmarkPromptAttention, ShowsAValueToThoseBehindIt) {
  auto in = test::random_inputs<float>({.query_heads = 2, .queries = 64, .keys = 64}, 14);
  for (index_t c = 0; c < 8; ++c) in.value.view()(0, 0, 37, c) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(follows(in, 10));
}

TEST(LandmarkPromptAttention, AllocatesNothingOnceWarm) {
  auto const in = test::random_inputs<float>(odd, 15);
  auto output = test::filled<float, 4>({2, 4, 170, 13}, 7);
  auto const call = [&] {
    landmark_prompt_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), 10);
  };
  call();
  EXPECT_EQ(test::allocations_of_two(call).second, 0);
}

TEST(LandmarkPromptAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 5, .keys = 9}, 16);
  auto output = test::filled<float, 4>({1, 1, 5, 8}, 7);
  auto const call = [&](index_t block, auto const&... options) {
    landmark_prompt_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), block, options...);
  };
  test::expect_error("block_tokens: expected at least 2, a landmark among them, got 1", [&] { call(1); });
  test::expect_error("output: expected tokens 9 (as query), got 5", [&] {
    landmark_prompt_attention(in.key.view(), in.key.view(), in.value.view(), output.view(), 4);
  });
  test::expect_error("value: expected tokens 9 (as key), got 5", [&] {
    landmark_prompt_attention(in.query.view(), in.key.view(), in.query.view(), output.view(), 4);
  });
  test::expect_error("output: expected memory of its own, got memory that overlaps query", [&] {
    auto query = in.query;
    landmark_prompt_attention(std::as_const(query).view(), in.key.view(), in.value.view(), query.view(), 4);
  });
  test::expect_scale_error([&](scale const& factor) { call(4, factor); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
