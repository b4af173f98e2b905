// SPDX-License-Identifier: BSD-3-Clause
// The scale, scores that the caller writes, and the order in which several apply.
#include <attend/policy/functions.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/score/bias.hpp>
#include <attend/policy/score/score.hpp>
#include <attend/policy/score/softcap.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

test::sizes const grouped{.batches = 2, .query_heads = 8, .key_heads = 4, .value_heads = 2, .queries = 37, .keys = 141};

template <class T>
class ScoreAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(ScoreAttention, Elements);

TYPED_TEST(ScoreAttention, ScalesByOneOverTheRootUnlessGiven) {
  auto const in = test::random_inputs<TypeParam>(grouped, 1);
  reference::options with;
  for (double factor : {1 / std::sqrt(8.0), 1.0, 0.03, -0.5}) {
    with.scale = factor;
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, scale{factor}), with)) << factor;
  }
  with.scale = 1 / std::sqrt(8.0);
  EXPECT_TRUE(test::agrees(in, test::attend_to(in), with));
}

TYPED_TEST(ScoreAttention, IsAFunctionOfLogitAndPlace) {
  auto const in = test::random_inputs<TypeParam>(grouped, 1);
  reference::options with;
  with.scores = {[](double s, reference::place const& at) {
    return s * (1 + 0.5 * static_cast<double>(at.head)) - 0.01 * std::abs(static_cast<double>(at.position() - at.key)) +
           0.02 * static_cast<double>(at.query) - 0.3 * static_cast<double>(at.batch);
  }};
  auto const written = score([](auto s, auto const& at) {
    using T = TypeParam;
    return s * (T(1) + T(0.5) * at.head()) - T(0.01) * abs(at.query_position - at.key_position) +
           T(0.02) * at.query_index() - T(0.3) * static_cast<T>(at.batch());
  });
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, written), with));
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, written, causal{}), with));
}

TEST(Scale, OfZeroAveragesValues) {
  auto const in = test::random_inputs<float>(grouped, 1);
  reference::options with;
  with.scores = {[](double, reference::place const&) { return 0.0; }};
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, scale{0}), with));
}

TEST(Scale, IsOneWithoutAKeyDimension) {
  auto const in = test::random_inputs<float>({.queries = 10, .keys = 20, .key_dimension = 0}, 1);
  EXPECT_TRUE(test::agrees(in, test::attend_to(in), {}));
}

TEST(Score, MayHideKeys) {
  auto const in = test::random_inputs<float>(grouped, 1);
  reference::options with;
  with.scores = {[](double s, reference::place const& at) {
    return at.key > at.position() + 3 ? -std::numeric_limits<double>::infinity() : s;
  }};
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, score([](auto s, auto const& at) {
                                                 return select(at.key_position > at.query_position + 3,
                                                               decltype(s)(-infinity<float>), s);
                                               })),
                           with));
}

// Softcap and bias do not commute: with a cap of 1 and a bias of deviation 2, the two orders are far apart.
TEST(Scores, ApplyInTheOrderGiven) {
  auto const in = test::random_inputs<float>(grouped, 1);
  auto const added = test::normal<float, 4>({1, 8, 37, 141}, 3, 2);
  reference::score_function const cap = [](double s, reference::place const&) { return std::tanh(s); };
  reference::score_function const add = [&](double s, reference::place const& at) {
    return s + test::shared_element(added, at);
  };
  reference::options cap_first, bias_first;
  cap_first.scores = {cap, add};
  bias_first.scores = {add, cap};
  auto const got_cap_first = test::attend_to(in, softcap{1}, bias(added.view()));
  auto const got_bias_first = test::attend_to(in, bias(added.view()), softcap{1});
  EXPECT_TRUE(test::agrees(in, got_cap_first, cap_first));
  EXPECT_TRUE(test::agrees(in, got_bias_first, bias_first));
  EXPECT_FALSE(test::agrees(in, got_cap_first, bias_first));
}

TEST(Scores, ApplyBeforeTheMask) {
  auto const in = test::random_inputs<float>(grouped, 1);
  auto const added = test::normal<float, 4>({2, 1, 37, 141}, 3, 2);
  reference::options with;
  with.visible = reference::causal_bottom_right();
  with.scores = {[&](double s, reference::place const& at) { return s + test::shared_element(added, at); },
                 [](double s, reference::place const&) { return 2 * std::tanh(s / 2); },
                 [](double s, reference::place const& at) { return s + 0.1 * static_cast<double>(at.key % 2); }};
  auto const odd_keys = score([](auto s, auto const& at) {
    auto const half = at.key_position * 0.5f;
    return s + 0.2f * (half - floor(half));
  });
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, bias(added.view()), causal{}, softcap{2}, odd_keys), with));
}

}  // namespace
}  // namespace attend
