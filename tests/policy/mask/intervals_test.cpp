// SPDX-License-Identifier: BSD-3-Clause
// Intervals: each query sees the keys between two that lists tell.
#include <attend/policy/mask/intervals.hpp>

#include "support/pattern_masks.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

using test::expect_error, test::expect_mask, test::lengths, test::shape_of;

TEST(Intervals, AnswerSoundly) {
  std::mt19937 engine(3);
  for (auto [queries, keys] : lengths)
    for (index_t batches : {1, 3}) {
      std::vector<index_t> first, last;
      for (index_t i = 0; i < queries * batches; ++i) {
        first.push_back(std::uniform_int_distribution<index_t>(0, keys)(engine));
        last.push_back(std::uniform_int_distribution<index_t>(0, keys)(engine));
      }
      problem_shape const shape{batches, 2, 1, 1, queries, keys, 4, 4, batches};
      auto const visible = [&](reference::place const& at) {
        auto const i = static_cast<std::size_t>(at.batch * at.queries + at.query);
        return first[i] <= at.key && at.key < last[i];
      };
      expect_mask(intervals(first, last), shape, visible, testing::Message() << batches << " batches");
    }
}

TEST(Intervals, OfMonotonicSegmentsAreDisjoint) {
  // Segments (t[i-1], t[i]]: every key is seen once, and tiles read the hull of theirs.
  std::vector<index_t> first, last;
  for (index_t i = 0; i < 100; ++i) first.push_back(i * 3), last.push_back(i * 3 + 3);
  problem_shape const shape = shape_of(100, 300);
  expect_mask(intervals(first, last), shape, [](auto const& at) { return at.key / 3 == at.query; }, testing::Message());
}

TEST(Intervals, RefuseWhatDoesNotFit) {
  std::vector<index_t> const seven(7, 0), eight(8, 0), far(8, 9), before(8, -1);
  expect_error("intervals: expected 8 or 8 ends, got 7", intervals(seven, eight), shape_of(8, 8));
  expect_error("intervals: expected keys from 0 to 8, got 0 to 9 at 0", intervals(eight, far), shape_of(8, 8));
  expect_error("intervals: expected keys from 0 to 8, got -1 to 0 at 0", intervals(before, eight), shape_of(8, 8));
  std::vector<index_t> const sixteen(16, 0);
  expect_error("intervals: expected as many first keys as last ones, got 8 and 16", intervals(eight, sixteen),
               {2, 1, 1, 1, 8, 8, 4, 4, 2});
}

}  // namespace
}  // namespace attend
