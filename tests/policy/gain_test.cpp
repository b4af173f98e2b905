// SPDX-License-Identifier: BSD-3-Clause
// Gains of values and gates of heads: what multiplies weights and outputs after the normalizer.
#include <attend/policy/gain.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/normalizer/relu.hpp>
#include <attend/policy/slots.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

test::sizes const grouped{.batches = 2, .query_heads = 8, .key_heads = 4, .value_heads = 2, .queries = 37, .keys = 141};

template <class T>
class GainAttention : public testing::Test {};
using Elements = testing::Types<float, double, half>;
TYPED_TEST_SUITE(GainAttention, Elements);

TYPED_TEST(GainAttention, MultipliesTheWeightsOfValues) {
  using A = accumulation_t<TypeParam>;
  auto const in = test::random_inputs<TypeParam>(grouped, 1);
  for (int choice = 0; choice < 4; ++choice) {
    std::array<index_t, 3> const extents{choice & 1 ? 1 : grouped.batches, choice & 2 ? 1 : grouped.value_heads,
                                         grouped.keys};
    auto const gains = test::normal<A, 3>(extents, 3);
    reference::options with;
    with.value_gain = [&](index_t batch, index_t head, index_t key) {
      return static_cast<double>(gains.view()(extents[0] == 1 ? 0 : batch, extents[1] == 1 ? 0 : head, key));
    };
    EXPECT_TRUE(
        test::agrees(in, test::attend_to(in, value_gain(gains.view())), with, test::largest_magnitude(gains.elements)))
        << choice;
  }
  auto const of_keys = test::normal<A, 1>({grouped.keys}, 3);
  reference::options with;
  with.value_gain = [&](index_t, index_t, index_t key) { return static_cast<double>(of_keys.view()(key)); };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, value_gain(of_keys.view())), with,
                           test::largest_magnitude(of_keys.elements)));
}

TYPED_TEST(GainAttention, MultipliesTheOutputsOfHeads) {
  using A = accumulation_t<TypeParam>;
  auto const in = test::random_inputs<TypeParam>(grouped, 1);
  auto gates = test::normal<A, 2>({grouped.batches, grouped.query_heads}, 3);
  gates.view()(0, 1) = 0;
  gates.view()(1, 4) = gates.view()(1, 5) = 0;
  reference::options with;
  with.head_gate = [&](index_t batch, index_t head) { return static_cast<double>(gates.view()(batch, head)); };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, head_gates(gates.view())), with,
                           std::max(1.0, test::largest_magnitude(gates.elements))));
  std::vector<A> const shared{1, 0, A(0.5), -2, 0, 0, 1, 0};
  with.head_gate = [&](index_t, index_t head) { return static_cast<double>(shared[static_cast<std::size_t>(head)]); };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, head_gates(shared)), with, 2));
}

TEST(ValueGain, LeavesSlotsAlone) {
  auto const in = test::random_inputs<float>(grouped, 1);
  auto const gains = test::normal<float, 1>({grouped.keys}, 3);
  auto const slot_key = test::normal<float, 4>({1, 4, 5, 8}, 4), slot_value = test::normal<float, 4>({1, 2, 5, 8}, 5);
  std::vector<double> const exact_key(slot_key.elements.begin(), slot_key.elements.end());
  std::vector<double> const exact_value(slot_value.elements.begin(), slot_value.elements.end());
  reference::options with;
  with.value_gain = [&](index_t, index_t, index_t key) { return static_cast<double>(gains.view()(key)); };
  with.slot_key = tensor_view<double const, 4>(exact_key.data(), {1, 4, 5, 8});
  with.slot_value = tensor_view<double const, 4>(exact_value.data(), {1, 2, 5, 8});
  EXPECT_TRUE(test::agrees(
      in, test::attend_to(in, value_gain(gains.view()), prefix_key_values(slot_key.view(), slot_value.view())), with,
      std::max(1.0, test::largest_magnitude(gains.elements))));
}

TEST(ValueGain, IsNotCountedByTheNormalizer) {
  auto const in = test::random_inputs<float>(grouped, 1);
  auto const gains = test::normal<float, 1>({grouped.keys}, 3);
  reference::options with;
  with.value_gain = [&](index_t, index_t, index_t key) { return static_cast<double>(gains.view()(key)); };
  with.settings = reference::normalizer::relu_by_sum;
  with.relu_epsilon = 1;
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, value_gain(gains.view()), relu_weights{relu_scaling::sum, 1}), with,
                           test::largest_magnitude(gains.elements)));
}

TEST(HeadGates, OfZeroSkipTheWork) {
  test::sizes const s{.batches = 2, .query_heads = 8, .key_heads = 2, .value_heads = 2, .queries = 200, .keys = 300};
  index_t const of_head = s.queries * s.keys;
  std::vector<float> const none(8, 0), all(8, 1), some{1, 0, 0, 0.5f, 0, 0, 0, 0};
  EXPECT_EQ(test::count_work(s, head_gates(none)).pairs, 0);
  EXPECT_EQ(test::count_work(s, head_gates(all)).pairs, 2 * 8 * of_head);
  EXPECT_EQ(test::count_work(s, head_gates(some)).pairs, 2 * 2 * of_head);
}

TEST(HeadGates, OfZeroGiveRowsThatSeeNothing) {
  // A closed head shares its key head with an open one; its values may hold anything.
  auto in =
      test::random_inputs<float>({.query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 70, .keys = 70}, 1);
  for (index_t query = 0; query < 70; ++query)
    in.query.view()(0, 1, query, 0) = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> const gates{2, 0, 0, 0};
  auto const out = test::attend_to(in, head_gates(gates), causal{});
  reference::options with;
  with.visible = reference::causal_bottom_right();
  with.head_gate = [&](index_t, index_t head) { return static_cast<double>(gates[static_cast<std::size_t>(head)]); };
  EXPECT_TRUE(test::agrees(in, out, with, 2));
  for (index_t head = 1; head < 4; ++head)
    for (index_t query = 0; query < 70; ++query) {
      EXPECT_EQ(out.output.view()(0, head, query, 7), 0);
      EXPECT_EQ(out.log_sum_exp.view()(0, head, query), -infinity<float>);
      EXPECT_EQ(out.weights.view()(0, head, query, 0), 0);
    }
}

}  // namespace
}  // namespace attend
