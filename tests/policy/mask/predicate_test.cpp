// SPDX-License-Identifier: BSD-3-Clause
// Masks that the caller writes, as a function of two positions or of a place.
#include <attend/policy/mask/predicate.hpp>

#include "support/mask_checks.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace extend;

namespace {

// Positions are negative where there are more queries than keys: division truncates towards zero, as that of int does.
std::vector<std::pair<index_t, index_t>> const lengths{{1, 1}, {70, 70}, {30, 170}, {170, 30}};

TEST(Predicate, OfPositionsAnswersSoundly) {
  for (auto [queries, keys] : lengths) {
    problem_shape const shape{1, 2, 1, 1, queries, keys, 4, 4, 1};
    EXPECT_TRUE(test::is_sound(mask([](auto query, auto key) { return query / 16 == key / 16; }), shape,
                               [](reference::place const& at) { return at.position() / 16 == at.key / 16; }));
    EXPECT_TRUE(test::is_sound(
        mask([](auto query, auto key) { return (query - key) % 3 == 0 && key <= query; }), shape,
        [](reference::place const& at) { return (at.position() - at.key) % 3 == 0 && at.key <= at.position(); }));
    EXPECT_TRUE(
        test::is_sound(mask([](auto query, auto key) { return key < 4 || !(query * 2 > key + 7); }), shape,
                       [](reference::place const& at) { return at.key < 4 || !(at.position() * 2 > at.key + 7); }));
    EXPECT_TRUE(test::is_sound(mask([](auto query, auto key) { return abs(query - key) <= 5 || min(query, key) == 3; }),
                               shape, [](reference::place const& at) {
                                 return std::abs(at.position() - at.key) <= 5 || std::min(at.position(), at.key) == 3;
                               }));
    EXPECT_TRUE(test::is_sound(
        mask([](auto query, auto key) { return ((query ^ key) & 4) != 0 && (key >> 3) < 9; }), shape,
        [](reference::place const& at) { return ((at.position() ^ at.key) & 4) != 0 && (at.key >> 3) < 9; }));
  }
}

TEST(Predicate, OfAPlaceAnswersSoundly) {
  for (auto [queries, keys] : lengths) {
    problem_shape const shape{2, 3, 1, 1, queries, keys, 4, 4, 2};
    EXPECT_TRUE(
        test::is_sound(mask([](auto const& at) { return at.head() % 2 == 0 || at.key_position <= at.query_position; }),
                       shape, [](reference::place const& at) { return at.head % 2 == 0 || at.key <= at.position(); }));
    EXPECT_TRUE(test::is_sound(mask([](auto const& at) { return at.key_position % (at.head() + 1) == 0; }), shape,
                               [](reference::place const& at) { return at.key % (at.head + 1) == 0; }));
    EXPECT_TRUE(
        test::is_sound(mask([](auto const& at) { return at.key_position <= at.query_index() + at.batch() * 7; }), shape,
                       [](reference::place const& at) { return at.key <= at.query + at.batch * 7; }));
  }
}

template <class T>
class PredicateAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(PredicateAttention, Elements);

TYPED_TEST(PredicateAttention, SeesWhatTheFunctionAllows) {
  for (auto [queries, keys] : lengths) {
    auto const in = test::random_inputs<TypeParam>(
        {.batches = 2, .query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = queries, .keys = keys}, 7);
    reference::options with;
    with.visible = [](reference::place const& at) { return at.position() / 16 == at.key / 16; };
    EXPECT_TRUE(
        test::agrees(in, test::attend_to(in, mask([](auto query, auto key) { return query / 16 == key / 16; })), with));
    with.visible = [](reference::place const& at) { return at.key % (at.head + 1) == at.batch || at.key == at.query; };
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, mask([](auto const& at) {
                                                   return at.key_position % (at.head() + 1) == at.batch() ||
                                                          at.key_position == at.query_index();
                                                 })),
                             with));
  }
}

TEST(Predicate, SkipsHiddenTilesAndFindsFullOnes) {
  // Blocks of 384 tokens: a multiple of every tile and block, so that each tile is hidden or full.
  test::sizes const s{.queries = 768, .keys = 768};
  test::work const work = test::count_work(s, mask([](auto query, auto key) { return query / 384 == key / 384; }));
  EXPECT_EQ(work.pairs, 2 * 384 * 384);
  EXPECT_EQ(work.masked, 0);
}

}  // namespace
}  // namespace attend
