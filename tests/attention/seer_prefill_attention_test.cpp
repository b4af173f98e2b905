// SPDX-License-Identifier: BSD-3-Clause
// SeerAttention's gate in prefill: its lists against the definition; dense where all blocks are chosen.
#include <attend/attention/sparse_prefill/seer_prefill_attention.hpp>
#include <attend/reference/gated_blocks.hpp>

#include "support/selected.hpp"

namespace attend {
using namespace options;
using namespace systems;

namespace {

test::sizes const odd{.batches = 2,
                      .query_heads = 4,
                      .key_heads = 2,
                      .value_heads = 2,
                      .queries = 90,
                      .keys = 101,
                      .key_dimension = 20,
                      .value_dimension = 13};

template <class T>
void expect_lists(test::inputs<T> const& in, seer_prefill_options const& settings, unsigned seed) {
  using A = accumulation_t<T>;
  test::sizes const& s = in.size;
  auto const w_q = test::normal<A, 3>({s.query_heads, 20, 12}, seed + 1, 0.3);
  auto const w_k = test::normal<A, 3>({s.key_heads, 60, 12}, seed + 2, 0.3);
  block_table table, alone;
  seer_prefill_blocks(in.query.view(), in.key.view(), w_q.view(), w_k.view(), rotary(rotary_frequencies(12)), table,
                      settings, threads{3});
  seer_prefill_blocks(in.query.view(), in.key.view(), w_q.view(), w_k.view(), rotary(rotary_frequencies(12)), alone,
                      settings);
  table.check();
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.query_heads; ++h)
      for (index_t block = 0; block < table.grid().query_blocks(); ++block) {
        auto const list = table.list(table.row(b, h, block));
        auto const expected =
            reference::gated_blocks<T, A>(in.query.view(), in.key.view(), w_q.view(), w_k.view(), b, h, block,
                                          {settings.block, settings.top, settings.threshold, 10000});
        EXPECT_EQ(std::vector<index_t>(list.begin(), list.end()), expected) << b << ", " << h << ", " << block;
        auto const again = alone.list(alone.row(b, h, block));
        EXPECT_TRUE(std::equal(list.begin(), list.end(), again.begin(), again.end())) << "others on three threads";
      }
}
template <class T>
void expect_lists(test::sizes const& s, seer_prefill_options const& settings, unsigned seed) {
  expect_lists(test::random_inputs<T>(s, seed), settings, seed);
}

TEST(GatedBlockAttention, FollowsItsDefinition) {
  expect_lists<float>(odd, {8, 4, 0}, 1);
  expect_lists<float>(odd, {8, 0, 0.08}, 2);
  expect_lists<float>(odd, {1, 5, 0}, 3);
  expect_lists<bfloat16>(odd, {16, 1, 0}, 4);
  test::sizes late = odd;
  late.keys = 50;
  expect_lists<float>(late, {8, 3, 0}, 5);
}

TEST(GatedBlockAttention, MayHaveNothing) {
  for (auto [queries, keys] : {std::pair<index_t, index_t>{0, 9}, {3, 0}, {1, 1}, {40, 11}}) {
    test::sizes few = odd;
    few.queries = queries;
    few.keys = keys;
    expect_lists<float>(few, {4, 2, 0}, 20);
    expect_lists<float>(few, {64, 0, 0.1}, 21);
  }
  expect_lists<float>(odd, {8, 1000, 0}, 22);
}

// Keys of zeros open all gates alike.
TEST(GatedBlockAttention, TakesTheLowerOfEqualBlocks) {
  auto in = test::random_inputs<float>(odd, 23);
  std::fill(in.key.elements.begin(), in.key.elements.end(), 0.f);
  expect_lists(in, {4, 6, 0}, 24);
}

TEST(GatedBlockAttention, IsDenseWhereAllBlocksAreChosen) {
  auto const in = test::random_inputs<float>(odd, 6);
  auto const w_q = test::normal<float, 3>({4, 20, 12}, 7), w_k = test::normal<float, 3>({2, 60, 12}, 8);
  auto got = test::filled<float, 4>({2, 4, 90, 13}, 7), dense = got;
  block_table table;
  seer_prefill_blocks(in.query.view(), in.key.view(), w_q.view(), w_k.view(), rotary(rotary_frequencies(12)), table,
                      {8, 13});
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), block_sparse{table} & causal{});
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view(), causal{});
  EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(5)));
}

// Weights of the gate that no float can hold are above a threshold of 0 too.
TEST(GatedBlockAttention, IsDenseAtAThresholdOfNothing) {
  auto const in = test::random_inputs<float>(odd, 6);
  auto const w_q = test::normal<float, 3>({4, 20, 12}, 7, 10), w_k = test::normal<float, 3>({2, 60, 12}, 8, 10);
  block_table sparse, all;
  seer_prefill_blocks(in.query.view(), in.key.view(), w_q.view(), w_k.view(), rotary(rotary_frequencies(12)), sparse,
                      {8, 0, 0});
  seer_prefill_blocks(in.query.view(), in.key.view(), w_q.view(), w_k.view(), rotary(rotary_frequencies(12)), all,
                      {8, 13});
  EXPECT_EQ(sparse.pairs(), all.pairs());
}

TEST(GatedBlockAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 5, .keys = 9}, 9);
  auto const w_q = test::normal<float, 3>({1, 8, 4}, 10), w_k = test::normal<float, 3>({1, 24, 4}, 11);
  block_table table;
  auto const call = [&](auto const& with, seer_prefill_options const& settings) {
    seer_prefill_blocks(in.query.view(), in.key.view(), w_q.view(), with.view(), rotary(rotary_frequencies(4)), table,
                        settings);
  };
  test::expect_error("key_weight: expected rows 24 (as key), got 8", [&] { call(w_q, {}); });
  auto const flat = test::normal<float, 3>({1, 24, 5}, 12), heads = test::normal<float, 3>({2, 24, 4}, 13);
  test::expect_error("key_weight: expected gate dimension 4 (as query_weight), got 5", [&] { call(flat, {}); });
  test::expect_error("key_weight: expected heads 1 (as key), got 2", [&] { call(heads, {}); });
  test::expect_error("query_weight: expected rows 8 (as query), got 24", [&] {
    seer_prefill_blocks(in.query.view(), in.key.view(), w_k.view(), w_k.view(), rotary(rotary_frequencies(4)), table,
                        {});
  });
  test::expect_error("rotary: expected at most 4 channels (the head dimension), got 6", [&] {
    seer_prefill_blocks(in.query.view(), in.key.view(), w_q.view(), w_k.view(), rotary(rotary_frequencies(6)), table,
                        {});
  });
  test::expect_error("threads: expected a count of at least 0, got -1", [&] {
    seer_prefill_blocks(in.query.view(), in.key.view(), w_q.view(), w_k.view(), rotary(rotary_frequencies(4)), table,
                        {}, threads{-1});
  });
  test::expect_error("seer_prefill_options: expected blocks of 1 to 536870911 tokens, got 0", [&] { call(w_k, {0}); });
  test::expect_error("seer_prefill_options: expected at least 0 blocks, got -1", [&] { call(w_k, {8, -1}); });
  test::expect_error("seer_prefill_options: expected a threshold from 0 to 1, got 2", [&] { call(w_k, {8, 0, 2}); });
}

}  // namespace
}  // namespace attend
