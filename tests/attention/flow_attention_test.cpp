// SPDX-License-Identifier: BSD-3-Clause
// Flow-Attention against its definition.
#include <attend/attention/linear/flow_attention.hpp>
#include <attend/core/eigen_tensor.hpp>
#include <attend/reference/flow_attention.hpp>

#include "support/sequence_problem.hpp"

namespace attend {
using namespace linear;
using namespace systems;

namespace {

using reference::row;
using test::sequence_inputs;
using test::sequence_sizes;

template <class T>
std::vector<double> expected_output(sequence_inputs<T> const& in, bool is_causal) {
  auto const& s = in.size;
  std::vector<double> output;
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.query_heads; ++h) {
      std::vector<row> q, k, v;
      for (index_t i = 0; i < s.queries; ++i) q.push_back(reference::row_of<T>(in.query.view(), b, h, i));
      for (index_t j = 0; j < s.keys; ++j) {
        k.push_back(reference::row_of<T>(in.key.view(), b, h, j));
        v.push_back(reference::row_of<T>(in.value.view(), b, h * s.value_heads / s.query_heads, j));
      }
      for (row const& o : reference::flow_attention(q, k, v, std::size_t(s.columns), is_causal))
        output.insert(output.end(), o.begin(), o.end());
    }
  return output;
}

/// Weights of a query sum to about 1: sums of dozens of positive flows, a few times that with what competition adds.
template <class T>
void expect_flow(sequence_inputs<T> const& in) {
  double const allowed = test::tolerance<T>(8);
  for (index_t chunk : {64, 1, 23}) {
    if (in.size.queries == in.size.keys) {
      EXPECT_TRUE(
          test::near(in.output([&](auto const&... t) { flow_attention(t..., causal{}, chunk_length(chunk)); }).elements,
                     expected_output(in, true), allowed))
          << "causal, chunk " << chunk;
    }
    EXPECT_TRUE(test::near(in.output([&](auto const&... t) { flow_attention(t..., chunk_length(chunk)); }).elements,
                           expected_output(in, false), allowed))
        << "chunk " << chunk;
  }
}

TEST(FlowAttention, IsItsDefinition) {
  unsigned seed = 1;
  for (sequence_sizes const& s : std::vector<sequence_sizes>{{1, 1, 1, 1, 1, 1, 1, 1},
                                                             {2, 2, 2, 1, 5, 5, 7, 3},
                                                             {1, 4, 4, 2, 65, 65, 16, 17},
                                                             {1, 2, 2, 2, 9, 130, 24, 33},
                                                             {1, 1, 1, 1, 80, 31, 20, 65},
                                                             {1, 2, 2, 2, 0, 6, 4, 4},
                                                             {1, 2, 2, 2, 3, 3, 5, 0}})
    expect_flow(sequence_inputs<float>(s, seed += 10));
}

TEST(FlowAttention, OtherElementTypes) {
  expect_flow(sequence_inputs<double>({1, 2, 2, 2, 40, 40, 9, 5}, 2));
  expect_flow(sequence_inputs<half>({1, 2, 2, 2, 40, 40, 9, 5}, 3));
}

TEST(FlowAttention, ConservedSourcesAreClamped) {
  // Few queries and many keys of large numbers: flows leave [-1, 1] and are clamped.
  expect_flow(sequence_inputs<float>({1, 1, 1, 1, 40, 3, 8, 6}, 4, 3.0));
}

TEST(FlowAttention, WithoutKeysOutputsAreZero) {
  sequence_inputs<float> const in({1, 2, 2, 2, 5, 0, 6, 4}, 5);
  for (float x : in.output([](auto const&... t) { flow_attention(t...); }).elements) EXPECT_EQ(x, 0);
}

TEST(FlowAttention, WithoutDimensionsOutputsAreZero) {
  sequence_inputs<float> const in({1, 2, 2, 2, 6, 6, 0, 5}, 10);
  for (float x : in.output([](auto const&... t) { flow_attention(t..., causal{}); }).elements) EXPECT_EQ(x, 0);
  for (float x : in.output([](auto const&... t) { flow_attention(t...); }).elements) EXPECT_EQ(x, 0);
}

TEST(FlowAttention, LaterTokensHaveNoInfluenceWhereCausal) {
  sequence_inputs<float> in({1, 1, 1, 1, 70, 70, 8, 8}, 6);
  auto const before = in.output([](auto const&... t) { flow_attention(t..., causal{}); });
  for (index_t c = 0; c < 8; ++c)
    for (auto* rows : {&in.query, &in.key, &in.value})
      rows->view()(0, 0, 40, c) = std::numeric_limits<float>::quiet_NaN();
  auto const after = in.output([](auto const&... t) { flow_attention(t..., causal{}); });
  for (std::size_t i = 0; i < 40 * 8; ++i) ASSERT_EQ(before.elements[i], after.elements[i]) << i;
}

TEST(FlowAttention, SumsLoseNothingFarOut) {
  // Flows of equal tokens are known: with x = s(q) = s(k) in each of d features, I = O = 1 / (d x^2), both conserved
  // flows are 1, competition is even, and the output is sigmoid(1) times the mean of the values.
  index_t const tokens = 50000;
  auto const q = test::filled<float, 4>({1, 1, tokens, 4}, 0.3f);
  auto v = test::normal<float, 4>({1, 1, tokens, 8}, 7);
  auto o = test::filled<float, 4>({1, 1, tokens, 8}, 7.f);
  for (bool is_causal : {true, false}) {
    if (is_causal)
      flow_attention(q.view(), q.view(), v.view(), o.view(), causal{});
    else
      flow_attention(q.view(), q.view(), v.view(), o.view());
    for (index_t c = 0; c < 8; ++c) {
      double sum = 0, magnitude = 0;
      for (index_t j = 0; j < tokens; ++j) {
        sum += v.view()(0, 0, j, c);
        magnitude += std::abs(v.view()(0, 0, j, c));
      }
      double const factor = 1 / double(tokens) / (1 + std::exp(-1.0));
      EXPECT_NEAR(o.view()(0, 0, tokens - 1, c), factor * sum, test::tolerance<float>(factor * magnitude)) << is_causal;
    }
  }
}

TEST(FlowAttention, TheSameBitsForAnyNumberOfThreads) {
  sequence_inputs<float> const in({1, 1, 1, 1, 500, 500, 64, 128}, 8);
  for (bool is_causal : {true, false}) {
    auto const run = [&](auto const& executor) {
      return in.output([&](auto const&... t) {
        is_causal ? flow_attention(t..., causal{}, executor) : flow_attention(t..., executor);
      });
    };
    auto const one = run(serial{});
    for (int count : {2, 3}) EXPECT_EQ(one.elements, run(threads{count}).elements);
  }
}

TEST(FlowAttention, RefusesWhatDoesNotFit) {
  auto const message = [](sequence_sizes const& s, auto const&... options) -> std::string {
    sequence_inputs<float> const in(s, 9);
    try {
      (void)in.output([&](auto const&... t) { flow_attention(t..., options...); });
    } catch (argument_error const& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message({1, 4, 2, 2, 5, 5, 8, 8}), "flow_features: expected as many query heads as key heads, got 4 and 2");
  EXPECT_EQ(message({1, 2, 2, 2, 4, 5, 8, 8}, causal{}),
            "flow_features: expected as many queries as keys (causal), got 4 and 5");
}

}  // namespace
}  // namespace attend
