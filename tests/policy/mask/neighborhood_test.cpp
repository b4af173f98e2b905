// SPDX-License-Identifier: BSD-3-Clause
// Windows of neighborhoods on one axis, for all small axes, against NATTEN's definition (tests/data) and the
// reference; the order of tokens; and what is refused.
#include <gtest/gtest.h>
#include <attend/policy/mask/neighborhood.hpp>
#include <attend/reference/neighborhood.hpp>
#include <npy.hpp>

#include <random>
#include <set>
#include <string>

#include "support/expect_error.hpp"

namespace attend {
using namespace grids;
using namespace extend;

namespace {

TEST(Neighborhood, HasNattensWindows) {
  attend_io::array const file = attend_io::load_npy(std::string(ATTEND_TEST_DATA) + "/neighborhoods.npy");
  auto const numbers = file.values<int>();
  ASSERT_EQ(file.shape[1], 8);
  ASSERT_GT(file.shape[0], 1000);
  for (auto row = numbers.begin(); row != numbers.end(); row += 8) {
    index_t const extent = row[0], window = row[1], stride = row[2], dilation = row[3], query = row[5];
    bool const causal = row[4] != 0;
    neighborhood_axis const axis{window, stride, dilation, causal};
    index_t const residue = query % dilation, length = (extent - residue + dilation - 1) / dilation;
    key_range const keys = axis.keys(query / dilation, length);
    for (index_t key = 0; key < extent; ++key) {
      bool const seen = (row[6] | row[7] << 8) >> key & 1;
      auto const text = testing::Message()
                        << "extent " << extent << ", window " << window << ", stride " << stride << ", dilation "
                        << dilation << ", causal " << causal << ", query " << query << ", key " << key;
      EXPECT_EQ(key % dilation == residue && keys.first <= key / dilation && key / dilation < keys.last, seen) << text;
      EXPECT_EQ(
          reference::is_neighbor(reference::neighborhood_rule{extent, window, stride, dilation, causal}, query, key),
          seen)
          << text;
    }
  }
}

template <int Axes>
void expect_bijection(std::array<index_t, Axes> const& extents, std::array<neighborhood_axis, Axes> const& axes) {
  detail::neighborhood_mask<Axes> const mask(extents, axes);
  auto const& order = mask.order();
  index_t tokens = 1;
  for (index_t extent : extents) tokens *= extent;
  EXPECT_EQ(order.tokens(), tokens);
  std::vector<index_t> walked(static_cast<std::size_t>(tokens));
  order.tokens_at({0, tokens}, walked.data());
  EXPECT_EQ(std::set<index_t>(walked.begin(), walked.end()).size(), walked.size());
  for (index_t position = 0; position < tokens; ++position) {
    index_t const token = walked[static_cast<std::size_t>(position)];
    EXPECT_TRUE(0 <= token && token < tokens);
    token_run const run = order.run_at(position);
    for (index_t i = 0; i < run.count; ++i)
      EXPECT_EQ(run.token + i * run.step, walked[static_cast<std::size_t>(position + i)]);
    auto const column = order.column_of(position);
    EXPECT_TRUE(column.first <= position && position < column.last());
  }
}

TEST(GridOrder, TakesEveryTokenOnce) {
  std::mt19937 engine(1);
  auto const from_to = [&](index_t least, index_t most) {
    return std::uniform_int_distribution<index_t>(least, most)(engine);
  };
  for (int trial = 0; trial < 60; ++trial) {
    std::array<index_t, 3> extents;
    std::array<neighborhood_axis, 3> axes{{{1}, {1}, {1}}};
    for (int a = 0; a < 3; ++a) {
      extents[a] = from_to(1, 14);
      axes[a].dilation = from_to(1, std::min<index_t>(extents[a], 4));
      axes[a].window = from_to(1, extents[a] / axes[a].dilation);
      axes[a].stride = from_to(1, axes[a].window);
      axes[a].at_border = border::clip;
      axes[a].shift = from_to(0, axes[a].stride - 1);
    }
    expect_bijection<3>(extents, axes);
    expect_bijection<2>({extents[0], extents[1]}, {axes[0], axes[1]});
    expect_bijection<1>({extents[0]}, {axes[0]});
  }
}

void expect_error(std::string const& message, std::array<index_t, 2> const& extents,
                  std::array<neighborhood_axis, 2> const& axes) {
  test::expect_error(message, [&] { detail::check_neighborhood<2>(extents, axes); });
}

TEST(Neighborhood, RefusesWhatIsWrong) {
  expect_error("extents: expected at least 0, got -1 on axis 1", {4, -1}, {{{1}, {1}}});
  expect_error("neighborhood: expected a window of at least 1, got 0 on axis 0", {4, 4}, {{{0}, {1}}});
  index_t const far = std::numeric_limits<index_t>::max();
  expect_error("neighborhood: expected a window below 536870912, got 9223372036854775807 on axis 0", {4, 4},
               {{{far, far, 1, false, border::clip}, {1}}});
  expect_error("neighborhood: expected a stride of 1 to 3 (the window), got 4 on axis 0", {4, 4}, {{{3, 4}, {1}}});
  expect_error("neighborhood: expected a dilation of at least 1, got 0 on axis 0", {4, 4}, {{{3, 1, 0}, {1}}});
  expect_error("neighborhood: expected a window of at most 2 (the extent over the dilation), got 3 on axis 1", {4, 5},
               {{{1}, {3, 1, 2}}});
  expect_error("neighborhood: expected a dilation of at most 4 (the extent), got 5 on axis 0", {4, 4},
               {{{3, 1, 5, false, border::clip}, {1}}});
  expect_error("neighborhood: expected a shift from 0 to 1, got 2 on axis 0", {4, 4},
               {{{3, 2, 1, false, border::clip, 2}, {1}}});
}

TEST(Neighborhood, AShiftIsPartOfAWindow) {
  static_assert(swin_window(7, 3).shift == 4 && swin_window(7, 7).shift == 0);
  for (index_t shift : {-1, 8})
    test::expect_error("swin_window: expected a shift from 0 to 7 (the window), got " + std::to_string(shift),
                       [&] { (void)swin_window(7, shift); });
}

TEST(Neighborhood, AGridDividesItsAxis) {
  static_assert(maxvit_grid(12, 3).dilation == 4);
  EXPECT_EQ(maxvit_grid(0, 3).dilation, 1);
  for (index_t grid : {0, -1, 3})
    test::expect_error(
        "maxvit_grid: expected a grid of at least 1 that divides the extent 10, got " + std::to_string(grid),
        [&] { (void)maxvit_grid(10, grid); });
}

}  // namespace
}  // namespace attend
