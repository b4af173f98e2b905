// SPDX-License-Identifier: BSD-3-Clause
// Strides: keys a multiple of a stride away, and the same columns of every period.
#include <attend/policy/mask/residues.hpp>

#include "support/pattern_masks.hpp"

namespace attend {
using namespace options;

namespace {

using test::expect_error, test::expect_mask, test::lengths, test::shape_of;

TEST(SameResidue, AnswersSoundly) {
  for (auto [queries, keys] : lengths)
    for (index_t stride : {1, 2, 7, 48, 60, 128, 1000})
      expect_mask(
          same_residue{stride}, shape_of(queries, keys),
          [=](auto const& at) { return (at.position() - at.key) % stride == 0; }, testing::Message() << stride);
}

TEST(KeyColumns, AnswerSoundly) {
  for (auto [queries, keys] : lengths)
    for (auto [period, first, count, step] : {std::array<index_t, 4>{1, 0, 1, 0},
                                              {8, 0, 1, 1},
                                              {64, 56, 8, 0},
                                              {10, 8, 5, 3},
                                              {16, 0, 4, 4},
                                              {200, 100, 40, 0},
                                              {7, 2, 0, 1},
                                              {12, 5, 12, 1}}) {
      auto const visible = [period = period, first = first, count = count, step = step](reference::place const& at) {
        return ((at.key - first - at.head * step) % period + period) % period < count;
      };
      expect_mask(key_columns{period, first, count, step}, shape_of(queries, keys), visible,
                  testing::Message() << "period " << period << ", " << count << " from " << first << ", step " << step);
    }
}

TEST(Residues, RefuseWhatIsWrong) {
  expect_error("same_residue: expected a stride of 1 to 536870911, got 0", same_residue{0}, shape_of(8, 8));
  expect_error("key_columns: expected a period of 1 to 536870911, got 0", key_columns{0, 0, 0, 0}, shape_of(8, 8));
  expect_error("key_columns: expected a first column from 0 to 3, got 4", key_columns{4, 4, 1, 0}, shape_of(8, 8));
  expect_error("key_columns: expected 0 to 4 columns, got 5", key_columns{4, 0, 5, 0}, shape_of(8, 8));
  expect_error("key_columns: expected a step of at least 0 that fits, got -1", key_columns{4, 0, 1, -1},
               shape_of(8, 8));
}

}  // namespace
}  // namespace attend
