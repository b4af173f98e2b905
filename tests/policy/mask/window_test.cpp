// SPDX-License-Identifier: BSD-3-Clause
// Sliding windows: with p the query's position, key j is seen where p - left <= j <= p + right; -1 leaves a side open.
#include <attend/policy/mask/window.hpp>

#include "support/mask_checks.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

reference::visible_function window_at(index_t left, index_t right, bool from_end, index_t offset) {
  return [=](reference::place const& at) {
    index_t const position = at.query + (from_end ? at.keys - at.queries : offset);
    return (left < 0 || at.key >= position - left) && (right < 0 || at.key <= position + right);
  };
}

struct sides {
  index_t left, right;
};
std::vector<sides> const all_sides{{-1, -1}, {0, 0},  {-1, 0},    {0, -1},    {5, 0},  {0, 5},
                                   {3, 7},   {60, 2}, {1000, 10}, {10, 1000}, {-1, 4}, {4, -1}};
std::vector<std::pair<index_t, index_t>> const lengths{{1, 1}, {1, 200}, {200, 1}, {65, 65}, {30, 170}, {170, 30}};

TEST(Window, AnswersSoundly) {
  for (auto [queries, keys] : lengths)
    for (auto [left, right] : all_sides) {
      problem_shape const shape{1, 3, 1, 1, queries, keys, 4, 4, 1};
      auto const text = testing::Message()
                        << left << " left, " << right << " right, " << queries << " queries, " << keys << " keys";
      EXPECT_TRUE(test::is_sound(window{left, right}, shape, window_at(left, right, true, 0))) << text;
      EXPECT_TRUE(test::is_sound(window{left, right, top_left}, shape, window_at(left, right, false, 0))) << text;
      for (index_t n : {-50, 2, 90})
        EXPECT_TRUE(test::is_sound(window{left, right, offset(n)}, shape, window_at(left, right, false, n)))
            << text << ", offset " << n;
    }
}

TEST(Window, IsAsGoodAsOpenWhereItIsWiderThanAnySequence) {
  index_t const most = std::numeric_limits<index_t>::max();
  problem_shape const shape{1, 1, 1, 1, 40, 50, 4, 4, 1};
  for (index_t n : {token_limit - 1, index_t{0}, 1 - token_limit}) {
    EXPECT_TRUE(test::is_sound(window{most, most, offset(n)}, shape, reference::everything())) << n;
    EXPECT_TRUE(test::is_sound(window{most, -1, offset(n)}, shape, reference::everything())) << n;
    EXPECT_TRUE(test::is_sound(window{-1, most, offset(n)}, shape, reference::everything())) << n;
  }
}

template <class T>
class WindowAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(WindowAttention, Elements);

TYPED_TEST(WindowAttention, SeesItsNeighbours) {
  unsigned seed = 1;
  for (auto [queries, keys] : lengths)
    for (auto [left, right] : all_sides) {
      auto const in = test::random_inputs<TypeParam>(
          {.query_heads = 2, .queries = queries, .keys = keys, .key_dimension = 5, .value_dimension = 9}, ++seed);
      auto const text = testing::Message()
                        << left << " left, " << right << " right, " << queries << " queries, " << keys << " keys";
      reference::options with;
      with.visible = reference::sliding_window(left, right);
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, window{left, right}), with)) << text;
      with.visible = window_at(left, right, false, 0);
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, window{left, right, top_left}), with)) << text;
      with.visible = window_at(left, right, false, -17);
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, window{left, right, offset(-17)}), with)) << text;
    }
}

TEST(Window, OfWidthZeroCopiesTheOwnValue) {
  auto const in = test::random_inputs<float>({.queries = 60, .keys = 60}, 4);
  EXPECT_TRUE(test::near(test::attend_to(in, window{0, 0}).output.elements, in.value.elements,
                         test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

TEST(Window, AsWideAsTheSequenceIsDense) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 90, .keys = 140}, 4);
  auto const dense = test::attend_to(in);
  EXPECT_TRUE(test::same_bits(test::attend_to(in, window{139, 139}).output.elements, dense.output.elements));
  EXPECT_TRUE(test::same_bits(test::attend_to(in, window{-1, -1}).output.elements, dense.output.elements));
}

TEST(Window, ComputesLittleMoreThanItsWidth) {
  index_t const tokens = 8192, width = 128;
  test::sizes const s{.queries = tokens, .keys = tokens, .key_dimension = 1, .value_dimension = 1};
  // A tile of queries reads the hull of its windows, and no more.
  index_t const edges = tokens * simd::tile_lanes<float>;
  for (auto [left, right] : {sides{width, 0}, sides{0, width}, sides{width / 2, width / 2}}) {
    // What sticks out at the two ends of the sequence is not there.
    index_t const allowed = tokens * (left + right + 1) - left * (left + 1) / 2 - right * (right + 1) / 2;
    test::work const work = test::count_work(s, window{left, right});
    EXPECT_GE(work.pairs, allowed);
    EXPECT_LE(work.pairs, allowed + edges);
  }
}

}  // namespace
}  // namespace attend
