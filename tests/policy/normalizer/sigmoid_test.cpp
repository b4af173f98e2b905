// SPDX-License-Identifier: BSD-3-Clause
// Sigmoid attention: p = 1 / (1 + exp(-(s + b))), with b = -ln(keys) unless given.
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

test::sizes const grouped{.batches = 2, .query_heads = 8, .key_heads = 4, .value_heads = 2, .queries = 37, .keys = 141};

template <class T>
class SigmoidAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(SigmoidAttention, Elements);

TYPED_TEST(SigmoidAttention, WeighsEachKeyAlone) {
  reference::options with;
  with.settings = reference::normalizer::sigmoid;
  for (double deviation : {1.0, 5.0}) {
    auto const in = test::random_inputs<TypeParam>(grouped, 1, deviation);
    with.sigmoid_bias = -std::log(141.0);
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, sigmoid_weights{}), with)) << deviation;
    for (double bias : {0.0, -3.0, 2.0}) {
      with.sigmoid_bias = bias;
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, sigmoid_weights(bias)), with)) << deviation << ' ' << bias;
    }
  }
}

TYPED_TEST(SigmoidAttention, GivesZeroWhereNothingIsSeen) {
  auto const in = test::random_inputs<TypeParam>({.query_heads = 2, .queries = 60, .keys = 20}, 1);
  reference::options with;
  with.settings = reference::normalizer::sigmoid;
  // The default bias counts all keys, hidden ones too.
  with.sigmoid_bias = -std::log(20.0);
  with.visible = reference::causal_bottom_right();
  auto const out = test::attend_to(in, sigmoid_weights{}, causal{});
  EXPECT_TRUE(test::agrees(in, out, with));
  EXPECT_EQ(out.output.view()(0, 1, 39, 0), 0);
  EXPECT_EQ(out.weights.view()(0, 1, 39, 19), 0);
}

TEST(Sigmoid, CountsTheKeysOfEachSequence) {
  std::vector<std::int64_t> const lengths{100, 1, 0};
  auto const in = test::random_inputs<float>({.batches = 3, .queries = 10, .keys = 100}, 1);
  for (index_t batch = 0; batch < 3; ++batch) {
    reference::options with;
    with.settings = reference::normalizer::sigmoid;
    with.sigmoid_bias = -std::log(std::max(1.0, static_cast<double>(lengths[static_cast<std::size_t>(batch)])));
    with.key_length = [&](index_t b) { return lengths[static_cast<std::size_t>(b)]; };
    auto expected = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
    auto const out = test::attend_to(in, sigmoid_weights{}, padded_keys(lengths));
    for (index_t query = 0; query < 10; ++query)
      EXPECT_NEAR(out.output.view()(batch, 0, query, 3), expected.at(batch, 0, query, 3),
                  test::tolerance<float>(4 * test::largest_magnitude(in.value.elements)));
  }
}

TEST(Sigmoid, OfHugeLogitsIsZeroOrOne) {
  auto in = test::random_inputs<float>({.queries = 3, .keys = 2, .key_dimension = 1}, 1);
  in.query.elements = {1e4f, -1e4f, 1e38f};
  in.key.elements = {1, -1};
  auto const out = test::attend_to(in, sigmoid_weights(0));
  EXPECT_EQ(out.weights.elements, (std::vector<float>{1, 0, 0, 1, 1, 0}));
}

}  // namespace
}  // namespace attend
