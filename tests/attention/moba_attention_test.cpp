// SPDX-License-Identifier: BSD-3-Clause
// Mixture of block attention: against its definition; dense where all blocks are chosen; work that is the chosen work.
#include <attend/attention/sparse_prefill/moba_attention.hpp>
#include <attend/reference/moba_attention.hpp>

#include "support/chosen_inputs.hpp"
#include "support/selected.hpp"

namespace attend {
using namespace options;
using namespace systems;

namespace {

using test::odd;
using test::sizes;

template <class T>
testing::AssertionResult follows(test::inputs<T> const& in, moba_options const& settings) {
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    moba_attention(q, k, v, o, settings, options...);
  });
  reference::options with;
  with.visible = reference::chosen_mixture<T>(in.query.view(), in.key.view(), settings.block, settings.top);
  return test::agrees(in, got, with);
}
template <class T>
testing::AssertionResult follows(sizes const& s, moba_options const& settings, unsigned seed) {
  return follows(test::random_inputs<T>(s, seed, 1.5), settings);
}

TEST(MixtureOfBlockAttention, FollowsItsDefinition) {
  for (index_t block : {1, 5, 16, 64})
    for (index_t top : {1, 2, 3, 7})
      EXPECT_TRUE(follows<float>({.batches = 2,
                                  .query_heads = 4,
                                  .key_heads = 2,
                                  .value_heads = 1,
                                  .queries = 70,
                                  .keys = 83,
                                  .key_dimension = 20,
                                  .value_dimension = 13},
                                 {block, top}, 1))
          << block << ", " << top;
}

TEST(MixtureOfBlockAttention, TakesManyRowsInParts) {
  EXPECT_TRUE(follows<float>({.query_heads = 2, .queries = 900, .keys = 900, .key_dimension = 16}, {32, 4}, 2));
  EXPECT_TRUE(follows<float>({.query_heads = 6, .key_heads = 2, .queries = 300, .keys = 300}, {300, 2}, 3));
}

TEST(MixtureOfBlockAttention, HasQueriesBeforeTheFirstKey) {
  EXPECT_TRUE(follows<float>({.queries = 30, .keys = 11}, {4, 2}, 4));
  EXPECT_TRUE(follows<float>({.queries = 1, .keys = 50}, {8, 3}, 5));
  EXPECT_TRUE(follows<float>({.queries = 3, .keys = 0}, {8, 3}, 6));
  EXPECT_TRUE(follows<float>({.queries = 0, .keys = 9}, {8, 3}, 7));
}

// All logits are 0, and the query and key tensors have no memory.
TEST(MixtureOfBlockAttention, HasQueriesAndKeysOfNoDimension) {
  EXPECT_TRUE(follows<float>({.queries = 20, .keys = 20, .key_dimension = 0}, {8, 2}, 11));
}

TEST(MixtureOfBlockAttention, FollowsItsDefinitionInOtherTypes) {
  sizes const s{.query_heads = 2, .queries = 90, .keys = 90, .key_dimension = 24, .value_dimension = 16};
  EXPECT_TRUE(follows<double>(s, {16, 3}, 8));
  EXPECT_TRUE(follows<bfloat16>(s, {16, 3}, 9));
}

TEST(MixtureOfBlockAttention, TakesTheLowerOfEqualBlocks) {
  EXPECT_TRUE(
      follows(test::whole_number_inputs<float>({.query_heads = 2, .queries = 150, .keys = 170, .key_dimension = 4}, 20),
              {4, 5}));
}

TEST(MixtureOfBlockAttention, ShowsAValueToThoseThatChoseIt) {
  EXPECT_TRUE(follows(test::with_nan_values(test::random_inputs<float>(odd, 21)), {8, 4}));
}

TEST(MixtureOfBlockAttention, IsDenseWhereAllBlocksAreChosen) {
  sizes const s{.query_heads = 2, .queries = 200, .keys = 230, .key_dimension = 16};
  auto const in = test::random_inputs<float>(s, 10);
  auto got = test::filled<float, 4>({1, 2, 200, 8}, 7), dense = got;
  moba_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), {16, 15});
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view(), causal{});
  EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(4)));
}

TEST(MixtureOfBlockAttention, ComputesWhatIsChosen) {
  sizes const s{.query_heads = 1, .queries = 2048, .keys = 2048};
  auto const in = test::random_inputs<float>(s, 11);
  auto got = test::filled<float, 4>({1, 1, 2048, 8}, 7);
  tile_counts counts;
  moba_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), {64, 3}, count_tiles(counts));
  // Three blocks for each query, of which the own one is half seen; a tile of it may stick out by its own width.
  EXPECT_LE(counts.pairs, 2048 * 3 * 64);
}

// A needle's gate is divided by the block's tokens n, the others' noise by sqrt(n): it stands out of short blocks.
TEST(MixtureOfBlockAttention, FindsNeedlesInShortBlocks) {
  sizes const s{.query_heads = 2, .queries = 1, .keys = 2000, .key_dimension = 128, .value_dimension = 8};
  auto const call = [](auto q, auto k, auto v, auto o, auto const&... options) {
    moba_attention(q, k, v, o, {4, 25}, options...);
  };
  EXPECT_GE(test::mass_found(s, 100, call), 0.99);
}

// Keys of the own block behind the query, and of blocks not chosen, have no influence.
TEST(MixtureOfBlockAttention, IsNotTouchedByHiddenKeys) {
  sizes const s{.queries = 64, .keys = 64};
  auto in = test::random_inputs<float>(s, 12);
  auto clean = test::filled<float, 4>({1, 1, 64, 8}, 7), got = clean;
  moba_attention(in.query.view(), in.key.view(), in.value.view(), clean.view(), {16, 2});
  for (index_t c = 0; c < 8; ++c) {
    in.key.view()(0, 0, 63, c) = std::numeric_limits<float>::quiet_NaN();
    in.value.view()(0, 0, 63, c) = std::numeric_limits<float>::infinity();
  }
  moba_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), {16, 2});
  for (auto* rows : {&clean, &got}) rows->elements.resize(63 * 8);
  EXPECT_TRUE(test::near(got.elements, clean.elements, test::tolerance<float>(4)));
}

TEST(MixtureOfBlockAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 5, .keys = 9}, 13);
  auto output = test::filled<float, 4>({1, 1, 5, 8}, 7);
  auto const call = [&](moba_options const& settings, auto const&... options) {
    moba_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), settings, options...);
  };
  test::expect_error("moba_options: expected blocks of 1 to 536870911 keys, got 0", [&] { call({0, 1}); });
  test::expect_error("moba_options: expected at least 1 block for a query, got 0", [&] { call({4, 0}); });
  test::expect_error("output: expected tokens 9 (as query), got 5",
                     [&] { moba_attention(in.key.view(), in.key.view(), in.value.view(), output.view(), {4, 1}); });
  test::expect_scale_error([&](scale const& factor) { call({4, 1}, factor); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
