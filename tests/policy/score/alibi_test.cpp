// SPDX-License-Identifier: BSD-3-Clause
// ALiBi: s -> s - slope[head] * |position of the query - key|, and the paper's slopes.
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/score/alibi.hpp>

#include <gmock/gmock.h>

#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

template <class T>
class AlibiAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(AlibiAttention, Elements);

TYPED_TEST(AlibiAttention, FallsWithTheDistance) {
  std::vector<TypeParam> const slopes{TypeParam(0.5), TypeParam(0), TypeParam(-0.01), TypeParam(0.125)};
  reference::options with;
  with.scores = {[&](double s, reference::place const& at) {
    return s - static_cast<double>(slopes[static_cast<std::size_t>(at.head)]) *
                   std::abs(static_cast<double>(at.position() - at.key));
  }};
  for (auto [queries, keys] : {std::pair<index_t, index_t>{1, 150}, {60, 60}, {37, 150}, {150, 37}}) {
    auto const in = test::random_inputs<TypeParam>(
        {.batches = 2, .query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = queries, .keys = keys}, 1);
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, alibi(slopes)), with)) << queries << ' ' << keys;
  }
}

TEST(Alibi, CombinesWithCausal) {
  std::vector<double> const slopes{0.5, 0.0625};
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 90, .keys = 130}, 1);
  reference::options with;
  with.scores = {[&](double s, reference::place const& at) {
    return s - slopes[static_cast<std::size_t>(at.head)] * static_cast<double>(at.position() - at.key);
  }};
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, alibi(slopes), causal{}), with));
}

// The paper, section 3: for 8 heads the slopes are 1/2, 1/4, ... 1/256.
TEST(AlibiSlopes, AreThePapersForAPowerOfTwo) {
  EXPECT_THAT(alibi_slopes(8),
              testing::ElementsAre(0.5f, 0.25f, 0.125f, 0.0625f, 0.03125f, 0.015625f, 0.0078125f, 0.00390625f));
  EXPECT_THAT(alibi_slopes(1), testing::ElementsAre(0x1p-8f));
  auto const sixteen = alibi_slopes(16);
  ASSERT_EQ(sixteen.size(), 16u);
  EXPECT_FLOAT_EQ(sixteen[0], 0.70710678f);
  EXPECT_FLOAT_EQ(sixteen[15], 0x1p-8f);
}

// The authors' code: those for 8 heads, then every second one of those for 16.
TEST(AlibiSlopes, FillUpOtherCountsFromTheNextPower) {
  auto const twelve = alibi_slopes(12);
  ASSERT_EQ(twelve.size(), 12u);
  std::vector<double> const expected{0.5,       0.25,       0.125,      0.0625,     0.03125,    0.015625,
                                     0.0078125, 0.00390625, 0.70710678, 0.35355339, 0.17677670, 0.08838835};
  for (std::size_t head = 0; head < 12; ++head)
    EXPECT_FLOAT_EQ(twelve[head], static_cast<float>(expected[head])) << head;
  EXPECT_THAT(alibi_slopes(3), testing::ElementsAre(0x1p-4f, 0x1p-8f, 0x1p-2f));
  EXPECT_THAT(alibi_slopes(0), testing::IsEmpty());
}

}  // namespace
}  // namespace attend
