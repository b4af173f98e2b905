// SPDX-License-Identifier: BSD-3-Clause
// The reference itself, on problems small enough to work out by hand.
#include <gmock/gmock.h>
#include <attend/reference/softmax_attention.hpp>

#include "support/compare.hpp"

namespace attend {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::Pointwise;

double const infinite = std::numeric_limits<double>::infinity();
double const ln_3 = std::log(3.0);

// Two queries, three keys of one dimension, and a scale of 1. The first query's logits are 0, ln 3 and 0, the second's
// are all 0.
class ByHand : public testing::Test {
 protected:
  std::vector<double> query{1, 0}, key{0, ln_3, 0}, value{10, 20, 30};
  reference::options with;

  void SetUp() override { with.scale = 1; }
  reference::result attend_to() const {
    return reference::softmax_attention<double>({query.data(), {1, 1, 2, 1}}, {key.data(), {1, 1, 3, 1}},
                                                {value.data(), {1, 1, 3, 1}}, with);
  }
  /// Terms have the signs of their sums, so that none is larger than the largest of these.
  static auto near(std::vector<double> const& expected) {
    double largest = 0;
    for (double x : expected) largest = std::max(largest, std::abs(x));
    return Pointwise(DoubleNear(test::tolerance<double>(largest)), expected);
  }
};

TEST_F(ByHand, Softmax) {
  auto const r = attend_to();
  EXPECT_THAT(r.weights, near({0.2, 0.6, 0.2, 1 / 3., 1 / 3., 1 / 3.}));
  EXPECT_THAT(r.output, near({20, 20}));
  EXPECT_THAT(r.log_sum_exp, near({std::log(5.0), ln_3}));
}

// Two queries, three keys: the first query stands at 1, the second at 2.
TEST_F(ByHand, Causal) {
  with.visible = reference::causal_bottom_right();
  auto const r = attend_to();
  EXPECT_THAT(r.weights, near({0.25, 0.75, 0, 1 / 3., 1 / 3., 1 / 3.}));
  EXPECT_THAT(r.output, near({17.5, 20}));
  with.visible = reference::causal_with_offset(-1);
  EXPECT_THAT(attend_to().output, near({0, 10}));
  EXPECT_THAT(attend_to().log_sum_exp, ElementsAre(-infinite, 0));
  with.visible = reference::sliding_window(0, 1);
  EXPECT_THAT(attend_to().output, near({22.5, 30}));
}

TEST_F(ByHand, ScaleAndScores) {
  with.scale = 2;  // logits 0, 2 ln 3, 0
  EXPECT_THAT(attend_to().output, near({(10 + 180 + 30) / 11., 20}));
  with.scale = 1;
  with.scores = {[](double s, reference::place const& at) { return s + (at.key == 0 ? ln_3 : 0); },
                 [](double s, reference::place const&) { return 2 * s; }};
  EXPECT_THAT(attend_to().weights, near({9 / 19., 9 / 19., 1 / 19., 9 / 11., 1 / 11., 1 / 11.}));
}

TEST_F(ByHand, Sink) {
  with.sink = [](index_t) { return std::log(5.0); };
  auto const r = attend_to();
  EXPECT_THAT(r.weights, near({0.1, 0.3, 0.1, 0.125, 0.125, 0.125}));
  EXPECT_THAT(r.log_sum_exp, near({std::log(10.0), std::log(8.0)}));
}

TEST_F(ByHand, Slots) {
  std::vector<double> const slot_key{std::log(5.0)}, slot_value{40};
  with.slot_key = tensor_view<double const, 4>(slot_key.data(), {1, 1, 1, 1});
  EXPECT_THAT(attend_to().output, near({10, 15}));
  with.slot_value = tensor_view<double const, 4>(slot_value.data(), {1, 1, 1, 1});
  EXPECT_THAT(attend_to().output, near({30, 25}));
}

TEST_F(ByHand, OtherNormalizers) {
  with.settings = reference::normalizer::sigmoid;
  EXPECT_THAT(attend_to().weights, near({0.5, 0.75, 0.5, 0.5, 0.5, 0.5}));
  with.sigmoid_bias = -ln_3;
  EXPECT_THAT(attend_to().weights, near({0.25, 0.5, 0.25, 0.25, 0.25, 0.25}));
  key = {1, -2, 3};
  with.settings = reference::normalizer::relu;
  EXPECT_THAT(attend_to().weights, near({1, 0, 3, 0, 0, 0}));
  with.settings = reference::normalizer::relu_by_count;
  EXPECT_THAT(attend_to().weights, near({1 / 3., 0, 1, 0, 0, 0}));
  with.settings = reference::normalizer::relu_by_sum;
  with.relu_epsilon = 1;
  EXPECT_THAT(attend_to().weights, near({0.2, 0, 0.6, 0, 0, 0}));
}

TEST_F(ByHand, GainsAndGates) {
  with.value_gain = [](index_t, index_t, index_t j) { return j == 1 ? 2.0 : 0.0; };
  EXPECT_THAT(attend_to().output, near({24, 40 / 3.}));
  with.head_gate = [](index_t, index_t) { return -1.0; };
  EXPECT_THAT(attend_to().output, near({-24, -40 / 3.}));
  with.head_gate = [](index_t, index_t) { return 0.0; };
  EXPECT_THAT(attend_to().output, ElementsAre(0, 0));
  EXPECT_THAT(attend_to().log_sum_exp, ElementsAre(-infinite, -infinite));
}

TEST_F(ByHand, Lengths) {
  with.key_length = [](index_t) { return 2; };
  EXPECT_THAT(attend_to().output, near({17.5, 15}));
  with.query_length = [](index_t) { return 1; };
  EXPECT_THAT(attend_to().output, near({17.5, 0}));
}

TEST_F(ByHand, HiddenNaN) {
  key[2] = value[2] = std::numeric_limits<double>::quiet_NaN();
  with.visible = [](reference::place const& at) { return at.key != 2 || at.query == 1; };
  auto const r = attend_to();
  EXPECT_NEAR(r.output[0], 17.5, test::tolerance<double>(17.5));
  EXPECT_TRUE(std::isnan(r.output[1]));
}

// Query heads 0 and 1 read key head 0 and value head 0, 2 and 3 read key head 1 and value head 0.
TEST(ReferenceHeads, AreShared) {
  std::vector<double> const query{1, 1, 1, 1}, key{0, ln_3, ln_3, 0}, value{0, 8};
  reference::options with;
  auto const r = reference::softmax_attention<double>({query.data(), {1, 4, 1, 1}}, {key.data(), {1, 2, 2, 1}},
                                                      {value.data(), {1, 1, 2, 1}}, with);
  EXPECT_THAT(r.output, Pointwise(DoubleNear(test::tolerance<double>(6)), std::vector<double>{6, 6, 2, 2}));
}

}  // namespace
}  // namespace attend
