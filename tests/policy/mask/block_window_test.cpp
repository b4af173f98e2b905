// SPDX-License-Identifier: BSD-3-Clause
// Block windows: the keys of the query's block, and some on either side of it.
#include <attend/policy/mask/block_window.hpp>

#include "support/pattern_masks.hpp"

namespace attend {
using namespace options;

namespace {

using test::expect_error, test::expect_mask, test::lengths, test::shape_of;

index_t floor_of(index_t a, index_t b) {
  return static_cast<index_t>(std::floor(static_cast<double>(a) / static_cast<double>(b)));
}

TEST(BlockWindow, AnswersSoundly) {
  for (auto [queries, keys] : lengths)
    for (index_t size : {1, 6, 40, 64, 1000})
      for (index_t left : {-1, 0, 5, 64})
        for (index_t right : {-1, 0, 7})
          for (index_t shift : {index_t{0}, size / 2}) {
            auto const visible = [=](reference::place const& at) {
              index_t const by = at.head >= 2 ? shift : 0, block = floor_of(at.position() + by, size);
              return (left < 0 || at.key >= block * size - by - left) &&
                     (right < 0 || at.key < (block + 1) * size - by + right);
            };
            expect_mask(block_window(size, left, right).shifted(shift, 2), shape_of(queries, keys), visible,
                        testing::Message() << "blocks of " << size << ", " << left << " left, " << right
                                           << " right, shifted by " << shift);
          }
}

TEST(BlockWindow, CutsTilesAtItsBlocks) {
  EXPECT_EQ(block_window(64).grain(shape_of(200, 200)).queries, 64);
  EXPECT_EQ(block_window(64).shifted(32, 2).grain(shape_of(200, 200)).queries, 32);
  EXPECT_EQ(block_window(64).shifted(32, 2).grain(shape_of(200, 200)).heads, 2);
  // Blocks that begin at odd queries leave tiles as they are.
  EXPECT_EQ(block_window(64).grain(shape_of(200, 203)).queries, 0);
}

TEST(BlockWindow, RefusesWhatIsWrong) {
  expect_error("block_window: expected blocks of 1 to 536870911 tokens, got 0", block_window(0), shape_of(8, 8));
  expect_error("block_window: expected left of at least -1, got -2", block_window(4, -2), shape_of(8, 8));
  expect_error("block_window: expected right of at least -1, got -2", block_window(4, 0, -2), shape_of(8, 8));
  expect_error("block_window: expected a shift from 0 to 3, got 4", block_window(4).shifted(4), shape_of(8, 8));
  expect_error("block_window: expected a first shifted head of at least 0, got -1", block_window(4).shifted(2, -1),
               shape_of(8, 8));
}

}  // namespace
}  // namespace attend
