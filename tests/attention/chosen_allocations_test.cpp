// SPDX-License-Identifier: BSD-3-Clause
// Attention to chosen keys takes its memory with the first call of a shape; the second allocates nothing.
#include <attend/attention/image/a2k_attention.hpp>
#include <attend/attention/image/bi_level_routing_attention.hpp>
#include <attend/attention/softmax/decoupled_embedding_attention.hpp>
#include <attend/attention/softmax/focus_icl_attention.hpp>
#include <attend/attention/softmax/hepos_attention.hpp>
#include <attend/attention/sparse_prefill/combiner_attention.hpp>
#include <attend/attention/sparse_prefill/hip_attention.hpp>
#include <attend/attention/sparse_prefill/hyper_attention.hpp>
#include <attend/attention/sparse_prefill/lsg_attention.hpp>
#include <attend/attention/sparse_prefill/moba_attention.hpp>
#include <attend/attention/sparse_prefill/routing_attention.hpp>
#include <attend/attention/sparse_prefill/sample_attention.hpp>
#include <attend/attention/sparse_prefill/sparse_k_causal_attention.hpp>
#include <attend/attention/sparse_prefill/sparse_transformer_attention.hpp>

#include "support/count_allocations.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace selection;
using namespace grids;
using namespace systems;

namespace {

class chosen_allocations : public testing::Test {
 protected:
  test::inputs<float> const in =
      test::random_inputs<float>({.query_heads = 2, .key_heads = 2, .value_heads = 2, .queries = 576, .keys = 576}, 1);
  test::tensor<float, 4> output = test::filled<float, 4>({1, 2, 576, 8}, 7);
  block_table table;

  /// call(query, key, value, output)
  template <class Call>
  void expect_none_again(Call const& call) {
    auto const [first, again] =
        test::allocations_of_two([&] { call(in.query.view(), in.key.view(), in.value.view(), output.view()); });
    EXPECT_GE(first, 0);
    EXPECT_EQ(again, 0);
  }
};

TEST_F(chosen_allocations, OfBlocks) {
  expect_none_again([](auto const&... tensors) { moba_attention(tensors..., {32, 3}); });
  expect_none_again([&](auto const&... tensors) { hip_attention(tensors..., table, {32, 16, 4, 1, 1}); });
}

TEST_F(chosen_allocations, OfTokens) {
  expect_none_again([](auto const&... tensors) { sample_attention(tensors..., {.weight_sum = 0.7}); });
  hash_directions const directions(7, 8, 1);
  expect_none_again([&](auto const&... tensors) {
    hyper_attention(tensors..., directions, {.block = 32, .samples = 32, .exact_below = 64}, causal{});
  });
  auto const centroids = test::normal<float, 3>({2, 9, 8}, 2);
  expect_none_again([&](auto const&... tensors) { routing_attention(tensors..., centroids.view(), 0, causal{}); });
  auto const scores = test::normal<float, 3>({1, 2, 576}, 3);
  expect_none_again([&](auto const&... tensors) { sparse_k_attention(tensors..., scores.view(), 50); });
  expect_none_again([&](auto const&... tensors) { sparse_k_causal_attention(tensors..., scores.view(), 50, 20); });
  expect_none_again([](auto const&... tensors) { hepos_attention(tensors..., 2); });
}

TEST_F(chosen_allocations, OfPatterns) {
  expect_none_again([](auto const&... tensors) { strided_sparse_attention(tensors..., 24); });
  expect_none_again([](auto const&... tensors) { fixed_sparse_attention(tensors..., {24, 3}); });
  for (lsg_selection selection : {lsg_selection::norm, lsg_selection::bos_pooling})
    expect_none_again([&](auto const&... tensors) { lsg_attention(tensors..., {32, 4, selection, 1}, causal{}); });
}

TEST_F(chosen_allocations, OfAQuestion) {
  expect_none_again([&](auto const& q, auto const& k, auto const& v, auto const& o) {
    focus_icl_attention(detail::part(q, 2, 0, 100), k, v, detail::part(o, 2, 0, 100), {400, 4, 0.3});
  });
}

TEST_F(chosen_allocations, OfRegions) {
  image_regions const regions{{24, 24}, {8, 6}};
  expect_none_again([&](auto const&... tensors) { bi_level_routing_attention(tensors..., table, regions, 2); });
  expect_none_again([&](auto const&... tensors) { a2k_distributed_attention(tensors..., regions, {}); });
  expect_none_again([&](auto const&... tensors) { a2k_progressive_attention(tensors..., table, regions, regions); });
  expect_none_again([](auto const&... tensors) { combiner_fixed_attention(tensors..., 24, causal{}); });
  expect_none_again([](auto const&... tensors) { combiner_logsparse_attention(tensors...); });
  expect_none_again([](auto const&... tensors) { combiner_axial_attention(tensors..., 24); });
}

TEST_F(chosen_allocations, OfHistories) {
  auto const target = test::normal<float, 3>({1, 2, 8}, 4), history = test::normal<float, 3>({1, 99, 8}, 5);
  auto to = test::filled<float, 3>({1, 2, 8}, 7);
  expect_none_again([&](auto const&...) {
    decoupled_embedding_attention(target.view(), history.view(), target.view(), history.view(), to.view(), 9);
  });
}

}  // namespace
}  // namespace attend
