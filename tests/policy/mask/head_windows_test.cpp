// SPDX-License-Identifier: BSD-3-Clause
// Windows of each head's own, and the two published schedules of them.
#include <attend/policy/mask/head_windows.hpp>

#include "support/pattern_masks.hpp"

namespace attend {
using namespace options;
using namespace extend;
using namespace systems;

namespace {

using test::expect_error, test::expect_mask, test::lengths, test::shape_of;

TEST(HeadWindows, AnswerSoundly) {
  std::vector<index_t> const left{5, 5, -1, 60}, right{0, 0, 3, -1};
  auto const visible = [&](index_t r) {
    return [&, r](reference::place const& at) {
      auto const h = static_cast<std::size_t>(at.head);
      index_t const distance = at.key - at.position();
      return (left[h] < 0 || distance >= -left[h]) && (r == 0 ? distance <= 0 : right[h] < 0 || distance <= right[h]);
    };
  };
  for (auto [queries, keys] : lengths) {
    expect_mask(head_windows(left), shape_of(queries, keys), visible(0), testing::Message() << "causal");
    expect_mask(head_windows(left, right), shape_of(queries, keys), visible(1), testing::Message() << "both sides");
  }
}

TEST(HeadWindows, KeepHeadsApartThatDiffer) {
  problem_shape const shape = shape_of(8, 8);
  std::vector<index_t> const four{7, 7, 7, 7}, two{7, 7, 8, 8}, one{7, 7, 7, 8};
  EXPECT_EQ(head_windows(four).grain(shape).heads, 4);
  EXPECT_EQ(head_windows(two).grain(shape).heads, 2);
  EXPECT_EQ(head_windows(one).grain(shape).heads, 1);
}

TEST(MultiScaleWindows, DoubleFromGroupToGroup) {
  EXPECT_EQ(multi_scale_windows(1024, 0, 8, 8), (std::vector<index_t>{63, 63, 127, 127, 255, 255, 511, 511}));
  EXPECT_EQ(multi_scale_windows(1024, 7, 8, 4), (std::vector<index_t>{511, 1023, 2047, 4095}));
  // All windows of a model together are 15/16 * 15/16 of one base window for each head and layer.
  index_t sum = 0;
  for (index_t layer = 0; layer < 12; ++layer)
    for (index_t left : multi_scale_windows(1024, layer, 12, 16)) sum += left + 1;
  EXPECT_EQ(sum * 256, 12 * 16 * 1024 * 225);
  EXPECT_THROW(multi_scale_windows(0, 0, 1, 1), argument_error);
  EXPECT_THROW(multi_scale_windows(8, 1, 1, 1), argument_error);
}

TEST(ElasticWindows, GrowWithTheKeys) {
  std::vector<double> const offset{64, 0, -100}, slope{0, 0.5, 0.01};
  EXPECT_EQ(elastic_windows(offset, slope, 1000), (std::vector<index_t>{63, 499, 0}));
  EXPECT_THROW(elastic_windows(offset, std::vector<double>{1.}, 1000), argument_error);
}

TEST(HeadWindows, RefuseWhatDoesNotFit) {
  std::vector<index_t> const three{1, 2, 3}, four{1, 1, 1, 1}, wrong{1, -2, 3, 4};
  expect_error("head_windows: expected left for 4 heads, got 3", head_windows(three), shape_of(8, 8));
  expect_error("head_windows: expected right for 4 heads, got 3", head_windows(four, three), shape_of(8, 8));
  expect_error("head_windows: expected left of at least -1, got -2 for head 1", head_windows(wrong), shape_of(8, 8));
}

}  // namespace
}  // namespace attend
