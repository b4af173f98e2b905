// SPDX-License-Identifier: BSD-3-Clause
// HiP attention: its lists and its output against the definition; dense where all blocks fit; planted keys are found.
#include <attend/attention/sparse_prefill/hip_attention.hpp>
#include <attend/reference/hip_attention.hpp>

#include "support/chosen_inputs.hpp"
#include "support/selected.hpp"

namespace attend {
using namespace options;
using namespace systems;

namespace {

using test::odd;
using test::sizes;

template <class T>
testing::AssertionResult follows(test::inputs<T> const& in, hip_options const& settings) {
  block_table table;
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    hip_attention(q, k, v, o, table, settings, options...);
  });
  reference::options with;
  with.visible = reference::searched<T>(in.query.view(), in.key.view(),
                                        {settings.query_block, settings.key_block, settings.blocks, settings.local,
                                         settings.sinks, static_cast<reference::tree_representative>(settings.form)});
  return test::agrees(in, got, with);
}
template <class T>
testing::AssertionResult follows(sizes const& s, hip_options const& settings, unsigned seed) {
  return follows(test::random_inputs<T>(s, seed, 1.5), settings);
}

TEST(HierarchicalAttention, FollowsItsDefinition) {
  EXPECT_TRUE(follows<float>(odd, {16, 8, 4, 1, 1}, 1));
  EXPECT_TRUE(follows<float>(odd, {48, 5, 7, 0, 2}, 2));
  EXPECT_TRUE(follows<float>(odd, {7, 1, 3, 2, 0}, 3));
  EXPECT_TRUE(follows<float>(odd, {500, 16, 3, 0, 0}, 4));
  EXPECT_TRUE(follows<float>(odd, {16, 16, 0, 1, 1}, 5));
}

TEST(HierarchicalAttention, FollowsItsOtherForms) {
  for (hip_form form : {hip_form::first_token, hip_form::first_block}) {
    EXPECT_TRUE(follows<float>(odd, {16, 8, 4, 1, 1, form}, 30));
    EXPECT_TRUE(follows<float>(odd, {48, 5, 7, 0, 2, form}, 31));
    EXPECT_TRUE(follows<float>(odd, {7, 1, 3, 2, 0, form}, 32));
    EXPECT_TRUE(follows<float>({.queries = 1, .keys = 90}, {4, 2, 5, 1, 1, form}, 33));
  }
}

TEST(HierarchicalAttention, HasQueriesBeforeTheFirstKey) {
  EXPECT_TRUE(follows<float>({.queries = 30, .keys = 11}, {4, 2, 2, 0, 1}, 6));
  EXPECT_TRUE(follows<float>({.queries = 1, .keys = 90}, {4, 2, 5, 1, 1}, 7));
  EXPECT_TRUE(follows<float>({.queries = 3, .keys = 0}, {4, 2, 2, 1, 1}, 8));
  EXPECT_TRUE(follows<float>({.queries = 0, .keys = 5}, {4, 2, 2, 1, 1}, 9));
}

TEST(HierarchicalAttention, FollowsItsDefinitionInOtherTypes) {
  sizes const s{.query_heads = 2, .queries = 90, .keys = 90, .key_dimension = 24, .value_dimension = 16};
  EXPECT_TRUE(follows<double>(s, {16, 4, 4, 1, 1}, 10));
  EXPECT_TRUE(follows<bfloat16>(s, {16, 4, 4, 1, 1}, 11));
}

TEST(HierarchicalAttention, ListsWhatIsSearched) {
  auto const in = test::random_inputs<float>(odd, 12);
  block_table table;
  hip_options const settings{16, 8, 4, 1, 1};
  hip_blocks(in.query.view(), in.key.view(), table, settings, threads{3});
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 4; ++h)
      for (index_t block = 0; block < 11; ++block) {
        auto const list = table.list(table.row(b, h, block));
        EXPECT_EQ(std::vector<index_t>(list.begin(), list.end()),
                  reference::searched_blocks<float>(in.query.view(), in.key.view(), b, h, block, {16, 8, 4, 1, 1}));
      }
}

TEST(HierarchicalAttention, TakesTheLowerOfEqualBlocks) {
  EXPECT_TRUE(
      follows(test::whole_number_inputs<float>({.query_heads = 2, .queries = 150, .keys = 170, .key_dimension = 4}, 20),
              {4, 2, 9, 1, 1}));
}

TEST(HierarchicalAttention, ShowsAValueToThoseThatFoundIt) {
  EXPECT_TRUE(follows(test::with_nan_values(test::random_inputs<float>(odd, 21)), {16, 8, 4, 1, 1}));
}

// What is like its neighbours is found: one of the first halves has its middle in the passage.
TEST(HierarchicalAttention, FindsPassages) {
  sizes const s{.queries = 1, .keys = 2048, .key_dimension = 64, .value_dimension = 8};
  for (unsigned seed = 0; seed < 20; ++seed) {
    auto in = test::random_inputs<float>(s, seed);
    index_t const first = static_cast<index_t>(std::mt19937(seed)() % 1500);
    for (index_t j = first; j < first + 256; ++j)
      for (index_t c = 0; c < 64; ++c) in.key.view()(0, 0, j, c) += in.query.view()(0, 0, 0, c);
    block_table table;
    hip_blocks(in.query.view(), in.key.view(), table, {1, 16, 6, 0, 0});
    for (index_t block : table.list(0))
      EXPECT_TRUE(block >= 127 || (16 * block + 15 >= first && 16 * block < first + 256)) << seed << ": " << block;
  }
}

TEST(HierarchicalAttention, IsDenseWhereAllBlocksFit) {
  auto const in = test::random_inputs<float>(odd, 13);
  block_table table;
  auto got = test::filled<float, 4>({2, 4, 170, 13}, 7), dense = got;
  hip_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), table, {16, 8, 23, 0, 0});
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view(), causal{});
  EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(5)));
}

TEST(HierarchicalAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 5, .keys = 9}, 14);
  auto output = test::filled<float, 4>({1, 1, 5, 8}, 7);
  block_table table;
  auto const call = [&](hip_options const& settings, auto const&... options) {
    hip_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), table, settings, options...);
  };
  test::expect_error("hip_options: expected blocks of 1 to 536870911 tokens, got 0", [&] { call({0, 1, 1, 1, 1}); });
  test::expect_error("hip_options: expected blocks of 1 to 536870911 tokens, got -1", [&] { call({1, -1, 1, 1, 1}); });
  test::expect_error("hip_options: expected 0 to 536870911 blocks, got -1", [&] { call({1, 1, -1, 1, 1}); });
  test::expect_scale_error([&](scale const& factor) { call({1, 1, 1, 1, 1}, factor); });
  EXPECT_EQ(table.grid().queries, 0) << "a refused call leaves the table as it was";
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
