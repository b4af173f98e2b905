// SPDX-License-Identifier: BSD-3-Clause
// Softmax with one more term in the denominator: a logit for each head, or one for all.
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/normalizer/sinks.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

test::sizes const grouped{.batches = 2, .query_heads = 6, .key_heads = 3, .value_heads = 1, .queries = 37, .keys = 141};

template <class T>
class SinksAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(SinksAttention, Elements);

TYPED_TEST(SinksAttention, TakeWeightAway) {
  // Sinks far below and far above the logits, and one that is not there.
  std::vector<TypeParam> const logits{0, -30, 30, 2, -infinity<TypeParam>, 90};
  auto const in = test::random_inputs<TypeParam>(grouped, 1);
  reference::options with;
  with.sink = [&](index_t head) { return static_cast<double>(logits[static_cast<std::size_t>(head)]); };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, sinks(logits)), with));
}

TYPED_TEST(SinksAttention, HaveTheLastWordWhereNothingIsSeen) {
  std::vector<TypeParam> const logits{1.5, -40, -infinity<TypeParam>};
  auto const in = test::random_inputs<TypeParam>({.query_heads = 3, .queries = 20, .keys = 6}, 1);
  reference::options with;
  with.sink = [&](index_t head) { return static_cast<double>(logits[static_cast<std::size_t>(head)]); };
  with.visible = reference::causal_bottom_right();
  auto const out = test::attend_to(in, sinks(logits), causal{});
  EXPECT_TRUE(test::agrees(in, out, with));
  for (index_t head = 0; head < 3; ++head) {
    EXPECT_EQ(out.output.view()(0, head, 0, 0), 0);
    if (head < 2)
      EXPECT_NEAR(out.log_sum_exp.view()(0, head, 0), logits[static_cast<std::size_t>(head)],
                  test::tolerance<TypeParam>(40));
    else
      EXPECT_EQ(out.log_sum_exp.view()(0, head, 0), -infinity<TypeParam>);
  }
}

TEST(Sinks, OfOneNumberHoldForAllHeads) {
  auto const in = test::random_inputs<float>(grouped, 1);
  reference::options with;
  // Softmax plus one: exp(0) more in the denominator.
  with.sink = [](index_t) { return 0.0; };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, sinks(0.0)), with));
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, sinks(0)), with));
  with.sink = [](index_t) { return 3.25; };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, sinks(3.25)), with));
}

// The zero slot: a key of zeros whose value is zero.
TEST(Sinks, OfZeroAreAKeyOfZeros) {
  auto const in = test::random_inputs<float>({.queries = 30, .keys = 50}, 1);
  auto longer = test::random_inputs<float>({.queries = 30, .keys = 51}, 1);
  std::fill(longer.key.elements.begin(), longer.key.elements.end(), 0.f);
  std::fill(longer.value.elements.begin(), longer.value.elements.end(), 0.f);
  std::copy(in.key.elements.begin(), in.key.elements.end(), longer.key.elements.begin());
  std::copy(in.value.elements.begin(), in.value.elements.end(), longer.value.elements.begin());
  longer.query = in.query;
  auto const sink = test::attend_to(in, sinks(0.0));
  auto const slot = test::attend_to(longer);
  EXPECT_TRUE(test::near(sink.output.elements, slot.output.elements,
                         test::tolerance<float>(test::largest_magnitude(in.value.elements))));
  EXPECT_TRUE(test::near(sink.log_sum_exp.elements, slot.log_sum_exp.elements, test::tolerance<float>(8)));
}

}  // namespace
}  // namespace attend
