// SPDX-License-Identifier: BSD-3-Clause
// What lanes see under a mask, in groups of keys: every visible pair is in a part, no part holds a group or an outer
// vector in which nobody sees anything, and logits tell each pair.
#include <attend/engine/softmax/visible_parts.hpp>

#include "support/mask_checks.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

template <class A, int Vectors>
void expect_parts(reference::visible_function const& visible, index_t rows_count, key_range range) {
  constexpr int width = simd::width<A>, lanes = Vectors * width;
  index_t const keys = range.count();
  problem_shape const shape{1, 1, 1, 1, 400, 300, 4, 4, 1};
  auto const rows = test::make_tile_rows<A>(shape, {0, 0, 0, 0, 400, 300}, {0}, 17, static_cast<int>(rows_count));
  auto const sees = [&](int lane, index_t j) {
    return visible({0, 0, static_cast<index_t>(rows.query[lane]), range.first + j, 400, 300});
  };
  auto const bound = [&](mask_place<A> const& place) {
    alignas(64) position_t<A> truth[width];
    for (int i = 0; i < width; ++i) truth[i] = sees(place.lane + i, place.key_index - range.first);
    return simd::load(truth) == simd::vector<position_t<A>>(position_t<A>(1));
  };
  alignas(64) A logits[engine::max_block_keys * lanes];
  engine::visible_parts const parts(Vectors, rows, range, bound, logits);

  for (index_t j = 0; j < keys; ++j)
    for (int lane = 0; lane < lanes; ++lane)
      EXPECT_EQ(logits[j * lanes + lane], sees(lane, j) ? A(0) : -infinity<A>) << "key " << j << ", lane " << lane;
  for (index_t j = keys; j < simd::register_rows; ++j)
    for (int lane = 0; lane < lanes; ++lane) EXPECT_EQ(logits[j * lanes + lane], -infinity<A>);

  bool nobody = true;
  index_t groups_in_parts = 0;
  for (index_t first = 0; first < keys; first += simd::register_rows) {
    index_t const last = std::min<index_t>(first + simd::register_rows, keys);
    int low = Vectors, high = 0;
    bool every = last - first == simd::register_rows;
    for (int v = 0; v < Vectors; ++v)
      for (int lane = v * width; lane < (v + 1) * width; ++lane)
        for (index_t j = first; j < last; ++j)
          if (sees(lane, j)) low = std::min(low, v), high = std::max(high, v + 1);
    for (int lane = low * width; lane < high * width; ++lane)
      for (index_t j = first; j < last; ++j) every = every && sees(lane, j);
    int found = 0;
    for (engine::visible_part const& part : parts) {
      if (part.keys.first > first || part.keys.last < last) continue;
      ++found;
      EXPECT_EQ(part.low, low) << "keys from " << first;
      EXPECT_EQ(part.low + part.vectors, high) << "keys from " << first;
      EXPECT_EQ(part.whole, every) << "keys from " << first;
    }
    EXPECT_EQ(found, low < high) << "keys from " << first;
    groups_in_parts += found;
    nobody = nobody && low >= high;
    for (int v = low; v < high; ++v) {
      EXPECT_LE(parts.of_vectors()[v].first, first);
      EXPECT_GE(parts.of_vectors()[v].last, last);
    }
  }
  EXPECT_EQ(parts.empty(), nobody);
  index_t groups = 0;
  for (engine::visible_part const& part : parts) groups += divide_up(part.keys.count(), simd::register_rows);
  EXPECT_EQ(groups, groups_in_parts) << "parts overlap";
}

template <class A>
void expect_parts_of_all_widths(reference::visible_function const& visible) {
  for (key_range range : {key_range{0, 128}, {3, 130}, {100, 147}, {40, 45}, {299, 300}}) {
    expect_parts<A, 3>(visible, 3 * simd::width<A>, range);
    expect_parts<A, 2>(visible, 2 * simd::width<A> - 1, range);
    expect_parts<A, 1>(visible, 1, range);
  }
}

TEST(VisibleParts, HoldWhatIsSeenAndNoMore) {
  std::mt19937 engine(1);
  std::vector<bool> listed(400 * 300);
  for (std::size_t i = 0; i < listed.size(); ++i) listed[i] = engine() % 200 == 0;
  std::vector<reference::visible_function> const patterns{
      [](reference::place const&) { return true; },
      [](reference::place const&) { return false; },
      [](reference::place const& at) { return at.key <= at.query; },
      [](reference::place const& at) { return std::abs(at.key - at.query - 40) < 30; },
      [](reference::place const& at) { return at.key % 5 == at.query % 5; },
      [](reference::place const& at) { return at.key / 16 % 2 == at.query / 16 % 2; },
      [&](reference::place const& at) { return listed[static_cast<std::size_t>(at.query * 300 + at.key)]; }};
  for (auto const& visible : patterns) {
    expect_parts_of_all_widths<float>(visible);
    expect_parts_of_all_widths<double>(visible);
  }
}

}  // namespace
}  // namespace attend
