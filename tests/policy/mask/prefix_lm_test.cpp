// SPDX-License-Identifier: BSD-3-Clause
// Prefix language models: a prefix that everybody sees, and causal from there on.
#include <attend/policy/mask/prefix_lm.hpp>

#include "support/mask_checks.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

TEST(PrefixLm, AnswersSoundly) {
  for (auto [queries, keys] : {std::pair<index_t, index_t>{1, 1}, {40, 150}, {150, 40}, {90, 90}}) {
    problem_shape const shape{2, 2, 1, 1, queries, keys, 4, 4, 2};
    for (index_t length : {index_t{0}, index_t{1}, keys / 2, keys}) {
      EXPECT_TRUE(test::is_sound(prefix_lm(length), shape, [&](reference::place const& at) {
        return at.key < length || at.key <= at.position();
      })) << length;
      EXPECT_TRUE(test::is_sound(prefix_lm(length, top_left), shape, [&](reference::place const& at) {
        return at.key < length || at.key <= at.query;
      })) << length;
      EXPECT_TRUE(test::is_sound(prefix_lm(length, offset(-20)), shape, [&](reference::place const& at) {
        return at.key < length || at.key <= at.query - 20;
      })) << length;
    }
  }
}

template <class T>
class PrefixLmAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(PrefixLmAttention, Elements);

TYPED_TEST(PrefixLmAttention, SeesThePrefixAndThePast) {
  std::vector<std::int64_t> const lengths{0, 90, 140};
  auto const in = test::random_inputs<TypeParam>({.batches = 3, .query_heads = 2, .queries = 100, .keys = 140}, 2);
  reference::options with;
  with.visible = [&](reference::place const& at) {
    return at.key < lengths[static_cast<std::size_t>(at.batch)] || at.key <= at.query + 40;
  };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, prefix_lm(lengths)), with));
  with.visible = [&](reference::place const& at) {
    return at.key < lengths[static_cast<std::size_t>(at.batch)] || at.key <= at.query;
  };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, prefix_lm(lengths, top_left)), with));
  with.visible = [&](reference::place const& at) { return at.key < 70 || at.key <= at.query - 10; };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, prefix_lm(70, offset(-10))), with));
}

TEST(PrefixLm, IsCausalWithoutAPrefixAndDenseWithAll) {
  auto const in = test::random_inputs<float>({.queries = 130, .keys = 130}, 2);
  EXPECT_TRUE(test::same_bits(test::attend_to(in, prefix_lm(0)).output.elements,
                              test::attend_to(in, causal{}).output.elements));
  EXPECT_TRUE(
      test::same_bits(test::attend_to(in, prefix_lm(130)).output.elements, test::attend_to(in).output.elements));
}

TEST(PrefixLm, ComputesLittleMoreThanItSees) {
  index_t const tokens = 2048, prefix = 512;
  test::sizes const s{.queries = tokens, .keys = tokens, .key_dimension = 1, .value_dimension = 1};
  index_t const allowed = tokens * (tokens + 1) / 2 + prefix * (prefix - 1) / 2;
  test::work const work = test::count_work(s, prefix_lm(prefix));
  EXPECT_GE(work.pairs, allowed);
  EXPECT_LE(work.pairs, allowed + tokens * simd::tile_lanes<float>);
}

}  // namespace
}  // namespace attend
