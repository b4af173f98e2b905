// SPDX-License-Identifier: BSD-3-Clause
// Temperatures: the logits of a head or of a query are multiplied by a number.
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/score/logit_scale.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

test::sizes const grouped{.batches = 2, .query_heads = 4, .key_heads = 2, .value_heads = 1, .queries = 37, .keys = 141};

template <class T>
class TemperatureAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(TemperatureAttention, Elements);

TYPED_TEST(TemperatureAttention, OfHeadsAndQueriesScalesLogits) {
  auto const in = test::random_inputs<TypeParam>(grouped, 1);
  auto const of_heads = test::normal<TypeParam, 1>({4}, 5);
  reference::options with;
  with.scores = {
      [&](double s, reference::place const& at) { return s * static_cast<double>(of_heads.view()(at.head)); }};
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, head_logit_scale(of_heads.view())), with));

  for (int choice = 0; choice < 8; ++choice) {
    std::array<index_t, 3> extents{grouped.batches, grouped.query_heads, grouped.queries};
    for (int axis = 0; axis < 3; ++axis)
      if (choice >> axis & 1) extents[static_cast<std::size_t>(axis)] = 1;
    auto const of_queries = test::normal<TypeParam, 3>(extents, 6);
    with.scores = {[&](double s, reference::place const& at) {
      return s * static_cast<double>(of_queries.view()(extents[0] == 1 ? 0 : at.batch, extents[1] == 1 ? 0 : at.head,
                                                       extents[2] == 1 ? 0 : at.query));
    }};
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, query_logit_scale(of_queries.view())), with)) << choice;
  }
}

TEST(Temperature, CombinesWithCausalAndAnotherType) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 60, .keys = 60}, 1);
  std::vector<double> temperatures;
  for (int i = 0; i < 60; ++i) temperatures.push_back(1 + 0.1 * std::log(i + 1.0));
  reference::options with;
  with.scores = {
      [&](double s, reference::place const& at) { return s * temperatures[static_cast<std::size_t>(at.query)]; }};
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, query_logit_scale(temperatures), causal{}), with));
}

TEST(Temperature, OfAllHeadsIsAScale) {
  auto const in = test::random_inputs<float>({.query_heads = 3, .queries = 20, .keys = 30, .key_dimension = 16}, 1);
  std::vector<float> const doubled{2, 2, 2};
  EXPECT_TRUE(test::near(test::attend_to(in, head_logit_scale(doubled)).output.elements,
                         test::attend_to(in, scale(0.5)).output.elements,
                         test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

}  // namespace
}  // namespace attend
