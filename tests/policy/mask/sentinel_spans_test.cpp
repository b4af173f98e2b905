// SPDX-License-Identifier: BSD-3-Clause
// Sentinel tokens: behind its span, only the closing one is seen.
#include <attend/policy/mask/sentinel_spans.hpp>

#include "support/pattern_masks.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

using test::expect_error, test::lengths, test::shape_of;

TEST(SentinelSpans, AnswerSoundly) {
  for (auto [queries, keys] : lengths)
    for (auto const& spans : {std::vector<std::pair<index_t, index_t>>{},
                              {{0, 1}},
                              {{3, 10}, {11, 30}, {40, 63}, {64, 199}},
                              {{5, 100}, {150, 160}, {161, 162}}}) {
      std::vector<index_t> open, close;
      for (auto [first, last] : spans)
        if (last < keys) open.push_back(first), close.push_back(last);
      auto const visible = [=](reference::place const& at) {
        index_t const i = at.position(), j = at.key;
        if (j > i) return false;
        for (std::size_t s = 0; s < open.size(); ++s) {
          if (i == open[s]) return j == i;
          if (i == close[s]) return j >= open[s];
        }
        for (std::size_t s = 0; s < open.size(); ++s)
          if (open[s] <= j && j < close[s]) return open[s] < i && i < close[s];
        return true;
      };
      EXPECT_TRUE(test::is_sound(sentinel_spans(open, close), shape_of(queries, keys), visible))
          << open.size() << " spans, " << queries << " queries, " << keys << " keys";
    }
}

TEST(SentinelSpans, VisitNoSpanThatIsClosed) {
  std::vector<index_t> const open{10}, close{200};
  problem_shape const shape = shape_of(300, 300, 1);
  auto const rows = test::make_tile_rows<float>(shape, {0, 0, 0, 0, 300, 300}, {0}, 240, tile_rows<float>::lanes);
  sentinel_spans const mask(open, close);
  EXPECT_EQ(mask.next(rows, 0).last, 10);
  EXPECT_EQ(mask.next(rows, 10).first, 200);
}

TEST(SentinelSpans, RefuseWhatIsWrong) {
  std::vector<index_t> const one{1}, two{4, 6}, three{1, 5}, far{8}, none{};
  expect_error("sentinel_spans: expected as many opening sentinels as closing ones, got 1 and 2",
               sentinel_spans(one, two), shape_of(8, 8));
  expect_error("sentinel_spans: expected ascending spans below 8, got 1 to 1 at 0", sentinel_spans(one, one),
               shape_of(8, 8));
  expect_error("sentinel_spans: expected ascending spans below 8, got 1 to 8 at 0", sentinel_spans(one, far),
               shape_of(8, 8));
  std::vector<index_t> const overlapping{1, 4};
  expect_error("sentinel_spans: expected ascending spans below 8, got 4 to 6 at 1", sentinel_spans(overlapping, two),
               shape_of(8, 8));
}

TEST(SentinelSpans, DoNotAdvancePositions) {
  std::vector<int> const open{0, 4, 9}, close{2, 5, 12};
  EXPECT_EQ(systems::sentinel_positions(open, close, 11), (std::vector<index_t>{0, 0, 0, 1, 1, 1, 2, 3, 4, 4, 5}));
  EXPECT_EQ(systems::sentinel_positions({}, {}, 3), (std::vector<index_t>{0, 1, 2}));
  EXPECT_TRUE(systems::sentinel_positions(open, close, 0).empty());
  EXPECT_THROW(systems::sentinel_positions(open, {}, 3), argument_error);
  EXPECT_THROW(systems::sentinel_positions(close, open, 3), argument_error);
  EXPECT_THROW(systems::sentinel_positions(open, close, -1), argument_error);
}

}  // namespace
}  // namespace attend
