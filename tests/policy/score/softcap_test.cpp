// SPDX-License-Identifier: BSD-3-Clause
// Softcap: s -> cap * tanh(s / cap).
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/score/softcap.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

reference::score_function capped(double cap) {
  return [=](double s, reference::place const&) { return cap * std::tanh(s / cap); };
}

template <class T>
class SoftcapAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(SoftcapAttention, Elements);

TYPED_TEST(SoftcapAttention, CapsLogits) {
  // Logits of a deviation of 9, some of them far above the cap.
  auto const in = test::random_inputs<TypeParam>(
      {.batches = 2, .query_heads = 4, .key_heads = 2, .queries = 37, .keys = 150, .key_dimension = 20}, 1, 3);
  reference::options with;
  for (double cap : {0.5, 2.0, 50.0, 1e6}) {
    with.scores = {capped(cap)};
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, softcap{cap}), with)) << cap;
  }
}

TEST(Softcap, LeavesHiddenKeysHidden) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 90, .keys = 50}, 1);
  reference::options with;
  with.scores = {capped(1.5)};
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, causal{}, softcap{1.5}), with));
}

TEST(Softcap, BoundsTheLogSumExp) {
  auto const in = test::random_inputs<float>({.queries = 20, .keys = 30}, 1, 30);
  double const most = 4 + std::log(30.0);
  for (float lse : test::attend_to(in, softcap{4}).log_sum_exp.elements)
    EXPECT_LE(lse, most + test::tolerance<float>(most));
}

}  // namespace
}  // namespace attend
