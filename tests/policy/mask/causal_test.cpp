// SPDX-License-Identifier: BSD-3-Clause
// Causal masks in all alignments: query i sees key j where j <= i + offset.
#include <attend/policy/mask/causal.hpp>

#include "support/mask_checks.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

// How far the queries of each alignment stand ahead, by its definition.
struct aligned_case {
  alignment aligned;
  bool from_end;
  index_t offset;

  reference::visible_function visible() const {
    return
        [*this](reference::place const& at) { return at.key <= at.query + (from_end ? at.keys - at.queries : offset); };
  }
};

std::vector<aligned_case> const alignments{{bottom_right, true, 0},
                                           {top_left, false, 0},
                                           {offset(0), false, 0},
                                           {offset(3), false, 3},
                                           {offset(-1), false, -1},
                                           {offset(-40), false, -40},
                                           {offset(1000), false, 1000},
                                           {offset(token_limit - 1), false, token_limit - 1},
                                           {offset(1 - token_limit), false, 1 - token_limit}};

std::vector<std::pair<index_t, index_t>> const lengths{{1, 1}, {1, 200}, {200, 1}, {65, 65}, {30, 170}, {170, 30}};

TEST(Causal, AnswersSoundly) {
  for (auto [queries, keys] : lengths)
    for (aligned_case const& c : alignments)
      EXPECT_TRUE(test::is_sound(causal{c.aligned}, {1, 3, 1, 1, queries, keys, 4, 4, 1}, c.visible()))
          << queries << " queries, " << keys << " keys, offset " << c.offset;
}

template <class T>
class CausalAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(CausalAttention, Elements);

// Rows that see nothing are among these: more queries than keys, and negative offsets.
TYPED_TEST(CausalAttention, SeesThePastOfEachAlignment) {
  unsigned seed = 1;
  for (auto [queries, keys] : lengths)
    for (aligned_case const& c : alignments) {
      auto const in = test::random_inputs<TypeParam>(
          {.query_heads = 3, .queries = queries, .keys = keys, .key_dimension = 5, .value_dimension = 9}, ++seed);
      reference::options with;
      with.visible = c.visible();
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, causal{c.aligned}), with))
          << queries << " queries, " << keys << " keys, offset " << c.offset;
    }
}

TEST(Causal, GivesZeroWhereNothingIsSeen) {
  auto const in = test::random_inputs<float>({.queries = 9, .keys = 4}, 5);
  auto const out = test::attend_to(in, causal{});
  for (index_t query = 0; query < 5; ++query) {
    EXPECT_EQ(out.output.view()(0, 0, query, 0), 0);
    EXPECT_EQ(out.log_sum_exp.view()(0, 0, query), -infinity<float>);
  }
  EXPECT_TRUE(std::isfinite(out.log_sum_exp.view()(0, 0, 5)));
}

TEST(Causal, ComputesHalfOfTheSquare) {
  index_t const tokens = 4096;
  for (index_t heads : {1, 3}) {
    test::sizes const s{
        .query_heads = heads, .queries = tokens, .keys = tokens, .key_dimension = 1, .value_dimension = 1};
    test::work const work = test::count_work(s, causal{});
    index_t const allowed = heads * tokens * (tokens + 1) / 2, tile_edge = heads * tokens * simd::tile_lanes<float>;
    EXPECT_GE(work.pairs, allowed);
    EXPECT_LE(work.pairs, allowed + tile_edge);
    // Only tiles on the diagonal need masking code: two at most for each tile of queries.
    EXPECT_LE(work.masked, 2 * divide_up(heads * tokens, simd::tile_lanes<float>));
    EXPECT_GT(work.full, work.masked);
  }
}

TEST(Causal, ComputesNothingWhereNobodySeesAnything) {
  test::sizes const s{.queries = 500, .keys = 500};
  EXPECT_EQ(test::count_work(s, causal{offset(-500)}).pairs, 0);
  EXPECT_EQ(test::count_work(s, causal{offset(499)}).masked, 0);
}

}  // namespace
}  // namespace attend
