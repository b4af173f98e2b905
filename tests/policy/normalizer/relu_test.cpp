// SPDX-License-Identifier: BSD-3-Clause
// ReLU attention: p = max(s, 0), as it is, divided by the number of keys seen, or by its sum.
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/normalizer/relu.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

test::sizes const grouped{.batches = 2, .query_heads = 8, .key_heads = 4, .value_heads = 2, .queries = 37, .keys = 141};

struct scaling_case {
  relu_scaling scaling;
  reference::normalizer settings;
};
std::vector<scaling_case> const scalings{{relu_scaling::none, reference::normalizer::relu},
                                         {relu_scaling::count, reference::normalizer::relu_by_count},
                                         {relu_scaling::sum, reference::normalizer::relu_by_sum}};

template <class T>
class ReluAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(ReluAttention, Elements);

TYPED_TEST(ReluAttention, RectifiesLogits) {
  auto const in = test::random_inputs<TypeParam>(grouped, 1);
  for (scaling_case const& c : scalings) {
    reference::options with;
    with.settings = c.settings;
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, relu_weights{c.scaling}), with)) << static_cast<int>(c.settings);
  }
}

// The count is of the keys that a row sees. An epsilon as large as the logits keeps sums of little well conditioned.
TYPED_TEST(ReluAttention, CountsAndSumsWhatIsSeen) {
  auto const in = test::random_inputs<TypeParam>({.query_heads = 2, .queries = 60, .keys = 40}, 1);
  for (scaling_case const& c : scalings) {
    reference::options with;
    with.settings = c.settings;
    with.relu_epsilon = 1;
    with.visible = reference::causal_bottom_right();
    auto const out = test::attend_to(in, relu_weights{c.scaling, 1}, causal{});
    EXPECT_TRUE(test::agrees(in, out, with)) << static_cast<int>(c.settings);
    EXPECT_EQ(out.output.view()(0, 1, 19, 0), 0);
    EXPECT_EQ(out.weights.view()(0, 1, 19, 39), 0);
  }
}

TEST(Relu, OfNegativeLogitsIsZero) {
  auto in = test::random_inputs<float>({.queries = 5, .keys = 9}, 1);
  for (float& x : in.query.elements) x = -std::abs(x);
  for (float& x : in.key.elements) x = std::abs(x);
  for (scaling_case const& c : scalings) {
    auto const out = test::attend_to(in, relu_weights{c.scaling, 0});
    for (float x : out.output.elements) EXPECT_EQ(x, 0);
    for (float x : out.weights.elements) EXPECT_EQ(x, 0);
  }
}

TEST(Relu, OfPositiveLogitsSumsUpToOneWithoutAnEpsilon) {
  auto in = test::random_inputs<float>({.queries = 5, .keys = 90}, 1);
  for (float& x : in.query.elements) x = std::abs(x);
  for (float& x : in.key.elements) x = std::abs(x);
  auto const out = test::attend_to(in, relu_weights{relu_scaling::sum, 0});
  for (index_t query = 0; query < 5; ++query) {
    double sum = 0;
    for (index_t key = 0; key < 90; ++key) sum += out.weights.view()(0, 0, query, key);
    EXPECT_NEAR(sum, 1, test::tolerance<float>(1));
  }
}

}  // namespace
}  // namespace attend
