// SPDX-License-Identifier: BSD-3-Clause
// Softmax: weights that sum up to one, the log-sum-exp, and rows that see nothing.
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/normalizer/softmax.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

template <class T>
class SoftmaxAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(SoftmaxAttention, Elements);

TYPED_TEST(SoftmaxAttention, WeighsByTheExponential) {
  for (double deviation : {0.0, 1.0, 4.0}) {
    auto const in = test::random_inputs<TypeParam>(
        {.batches = 2, .query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 37, .keys = 300}, 1, deviation);
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, softmax{}), {})) << deviation;
  }
}

TYPED_TEST(SoftmaxAttention, HasWeightsThatSumUpToOne) {
  auto const in = test::random_inputs<TypeParam>({.query_heads = 2, .queries = 60, .keys = 40}, 1, 2);
  auto const out = test::attend_to(in, causal{}, softmax{});
  reference::options with;
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, out, with));
  for (index_t head = 0; head < 2; ++head)
    for (index_t query = 0; query < 60; ++query) {
      double sum = 0;
      for (index_t key = 0; key < 40; ++key) sum += static_cast<double>(out.weights.view()(0, head, query, key));
      EXPECT_NEAR(sum, query < 20 ? 0 : 1, test::tolerance<TypeParam>(1)) << query;
      EXPECT_EQ(std::isinf(out.log_sum_exp.view()(0, head, query)), query < 20);
    }
}

// Logits rise from key to key by more than the accumulated sums can hold: they have to be rescaled again and again.
TYPED_TEST(SoftmaxAttention, RescalesWhenTheMaximumRises) {
  auto in = test::random_inputs<TypeParam>({.queries = 30, .keys = 1000, .key_dimension = 1}, 1);
  for (double slope : {0.2, 3.0, -0.2}) {
    for (index_t i = 0; i < 30; ++i) in.query.view()(0, 0, i, 0) = static_cast<TypeParam>(i % 3 - 1);
    for (index_t j = 0; j < 1000; ++j)
      in.key.view()(0, 0, j, 0) = static_cast<TypeParam>(slope * static_cast<double>(j));
    EXPECT_TRUE(test::agrees(in, test::attend_to(in), {})) << slope;
  }
}

}  // namespace
}  // namespace attend
