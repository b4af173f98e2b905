// SPDX-License-Identifier: BSD-3-Clause
// XAttention: its lists and its output against the definition; what crosses the antidiagonals is found.
#include <attend/attention/sparse_prefill/x_attention.hpp>
#include <attend/cache/paged.hpp>
#include <attend/reference/x_attention.hpp>

#include "support/cached_tokens.hpp"
#include "support/chosen_inputs.hpp"
#include "support/count_allocations.hpp"
#include "support/selected.hpp"

namespace attend {
using namespace options;
using namespace systems;
using namespace caches;

namespace {

using test::odd;
using test::sizes;

template <class T>
testing::AssertionResult follows(sizes const& s, x_attention_options const& settings, unsigned seed) {
  auto const in = test::random_inputs<T>(s, seed, 1.5);
  block_table table;
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    x_attention(q, k, v, o, table, settings, options...);
  });
  reference::options with;
  with.visible =
      reference::by_antidiagonals<T>(in.query.view(), in.key.view(), {settings.block, settings.stride, settings.share});
  return test::agrees(in, got, with);
}

TEST(XAttention, FollowsItsDefinition) {
  unsigned seed = 0;
  for (double share : {0.3, 0.9}) {
    EXPECT_TRUE(follows<float>(odd, {16, 8, share}, ++seed));
    EXPECT_TRUE(follows<float>(odd, {15, 3, share}, ++seed));
    EXPECT_TRUE(follows<float>(odd, {8, 8, share}, ++seed));
    EXPECT_TRUE(follows<float>(odd, {64, 1, share}, ++seed));
    EXPECT_TRUE(follows<float>(odd, {1, 1, share}, ++seed));
    EXPECT_TRUE(follows<float>(odd, {512, 16, share}, ++seed));
    EXPECT_TRUE(follows<float>({.queries = 150, .keys = 150, .key_dimension = 32}, {16, 4, share}, ++seed));
  }
}

TEST(XAttention, HasQueriesBeforeTheFirstKey) {
  EXPECT_TRUE(follows<float>({.queries = 30, .keys = 11}, {4, 2, 0.5}, 31));
  EXPECT_TRUE(follows<float>({.queries = 1, .keys = 90}, {4, 2, 0.5}, 32));
  EXPECT_TRUE(follows<float>({.queries = 3, .keys = 0}, {4, 2, 0.5}, 33));
  EXPECT_TRUE(follows<float>({.queries = 0, .keys = 5}, {4, 2, 0.5}, 34));
}

TEST(XAttention, FollowsItsDefinitionInOtherTypes) {
  sizes const s{.query_heads = 2, .queries = 90, .keys = 90, .key_dimension = 24, .value_dimension = 16};
  EXPECT_TRUE(follows<double>(s, {8, 4, 0.7}, 41));
  EXPECT_TRUE(follows<bfloat16>(s, {8, 4, 0.7}, 42));
  // A matrix unit takes rows of this dimension.
  EXPECT_TRUE(
      follows<bfloat16>({.query_heads = 2, .queries = 170, .keys = 183, .key_dimension = 32}, {16, 4, 0.7}, 43));
  EXPECT_TRUE(follows<bfloat16>({.queries = 300, .keys = 1500, .key_dimension = 32}, {16, 8, 0.7}, 44));
}

// Chunks of a prompt, of two sequences of which one is shorter.
TEST(XAttention, ReadsChunksFromACache) {
  sizes s = odd;
  s.value_heads = s.key_heads;
  s.queries = 40;
  auto const in = test::random_inputs<float>(s, 50, 1.5);
  std::array<index_t, 2> const length{183, 150};
  paged_cache<float, std::int8_t> cache(test::shape_of(s), {.pages = 60, .page_tokens = 7});
  for (index_t b : {0, 1}) {
    auto const part = [&](auto const& all) {
      auto const view = all.view();
      return tensor_view<float const, 3>(&view(b, 0, 0, 0),
                                         {s.key_heads, length[static_cast<std::size_t>(b)], view.extent(3)},
                                         {view.stride(1), view.stride(2), 1});
    };
    cache.append(b, part(in.key), part(in.value));
  }
  block_table table;
  auto output = test::filled<float, 4>({2, 4, 40, 13}, 7.f), direct = output;
  x_attention(in.query.view(), cache, output.view(), table, {16, 4, 0.6});
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 4; ++h)
      for (index_t block = 0; block < 3; ++block) {
        auto const list = table.list(table.row(b, h, block));
        EXPECT_EQ(std::vector<index_t>(list.begin(), list.end()),
                  reference::antidiagonal_blocks<float>(
                      in.query.view(), in.key.view(), length[static_cast<std::size_t>(b)], b, h, block, {16, 4, 0.6}));
      }
  softmax_attention(in.query.view(), cache, direct.view(), block_sparse{table} & causal{});
  EXPECT_TRUE(test::same_bits(output.elements, direct.elements));
}

TEST(XAttention, WithTheWholeShareIsDense) {
  auto const in = test::random_inputs<float>(odd, 51);
  block_table table;
  auto got = test::filled<float, 4>({2, 4, 170, 13}, 7), dense = got;
  x_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), table, {16, 8, 1});
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view(), causal{});
  EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(5)));
}

// A column that all queries see, or a diagonal at an odd distance, somewhere else in every trial.
TEST(XAttention, FindsColumnsAndDiagonals) {
  index_t const tokens = 256, block = 16;
  sizes const s{.queries = tokens, .keys = tokens, .key_dimension = 64};
  auto const expect_found = [&](test::inputs<float> const& in, auto const& key_of) {
    block_table table;
    x_attention_blocks(in.query.view(), in.key.view(), table, {block, 8, 0.5});
    for (index_t I = 8; I < tokens / block; ++I) {
      auto const list = table.list(table.row(0, 0, I));
      bool found = false;
      for (index_t i = I * block; i < (I + 1) * block; ++i)
        found = found || std::binary_search(list.begin(), list.end(), static_cast<std::int32_t>(key_of(i) / block));
      EXPECT_TRUE(found) << "block " << I;
      EXPECT_LT(list.size(), 7U) << "block " << I;
    }
  };
  for (unsigned seed = 0; seed < 5; ++seed) {
    std::mt19937 engine(seed);
    index_t const column = static_cast<index_t>(20 + engine() % 32),
                  back = static_cast<index_t>(49 + engine() % 32 * 2);
    auto in = test::random_inputs<float>(s, seed);
    for (index_t i = 0; i < tokens; ++i) in.query.view()(0, 0, i, 0) += 8;
    in.key.view()(0, 0, column, 0) = 80;
    expect_found(in, [&](index_t) { return column; });
    in = test::random_inputs<float>(s, seed);
    for (index_t i = back; i < tokens; ++i)
      for (index_t c = 0; c < 64; ++c) in.key.view()(0, 0, i - back, c) = 12 * in.query.view()(0, 0, i, c);
    expect_found(in, [&](index_t i) { return i - back; });
  }
}

TEST(XAttention, AllocatesNothingAgain) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 300, .keys = 300}, 52);
  auto output = test::filled<float, 4>({1, 2, 300, 8}, 7.f);
  block_table table;
  auto const [first, again] = test::allocations_of_two(
      [&] { x_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), table, {32, 4, 0.5}); });
  EXPECT_GE(first, 0);
  EXPECT_EQ(again, 0);
}

TEST(XAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 5, .keys = 9}, 53);
  auto output = test::filled<float, 4>({1, 1, 5, 8}, 7);
  block_table table;
  auto const call = [&](x_attention_options const& settings, auto const&... options) {
    x_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), table, settings, options...);
  };
  test::expect_error("x_attention_options: expected blocks of 1 to 536870911 tokens, got 0", [&] { call({0, 1, 1}); });
  test::expect_error("x_attention_options: expected a stride that divides blocks of 8 tokens, got 3",
                     [&] { call({8, 3, 1}); });
  test::expect_error("x_attention_options: expected a stride that divides blocks of 8 tokens, got 0",
                     [&] { call({8, 0, 1}); });
  test::expect_error("x_attention_options: expected a share from 0 to 1, got 1.5", [&] { call({8, 4, 1.5}); });
  test::expect_scale_error([&](scale const& factor) { call({8, 4, 0.5}, factor); });
  contiguous_cache<float> cache({1, 1, 9, 8}, 9);
  test::expect_error("query: expected head dimension 9 (as the cache), got 8",
                     [&] { x_attention(in.query.view(), cache, output.view(), table, {8, 4, 0.5}); });
  test::expect_error("query: expected head dimension 9 (as the cache), got 8",
                     [&] { x_attention_blocks(in.query.view(), cache, table, {8, 4, 0.5}); });
  contiguous_cache<float> three({1, 3, 8, 8}, 9);
  test::expect_error("query_heads: expected a multiple of 3 (the key-value heads), got 1",
                     [&] { x_attention_blocks(in.query.view(), three, table, {8, 4, 0.5}); });
  EXPECT_EQ(table.grid().queries, 0) << "a refused call leaves the table as it was";
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
