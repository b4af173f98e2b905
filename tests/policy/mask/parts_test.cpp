// SPDX-License-Identifier: BSD-3-Clause
// Parts of a call: certain heads, queries or keys.
#include <attend/policy/mask/parts.hpp>

#include "support/pattern_masks.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

using test::expect_error, test::expect_mask, test::lengths, test::shape_of;

TEST(Parts, AnswerSoundly) {
  for (auto [queries, keys] : lengths) {
    problem_shape const shape = shape_of(queries, keys);
    for (auto [first, last] : {std::pair<index_t, index_t>{0, 2}, {2, 2}, {1, 4}, {0, 0}})
      expect_mask(
          heads_in(first, last), shape,
          [first = first, last = last](auto const& at) { return at.head >= first && at.head < last; },
          testing::Message() << "heads " << first << " to " << last);
    for (auto [first, last] : {std::pair<index_t, index_t>{0, 5}, {60, 100}, {-10, 3}, {7, 7}, {100, token_limit}}) {
      auto const text = testing::Message() << first << " to " << last;
      expect_mask(
          queries_in(first, last), shape,
          [first = first, last = last](auto const& at) { return at.position() >= first && at.position() < last; },
          text);
      expect_mask(
          keys_in(first, last), shape,
          [first = first, last = last](auto const& at) { return at.key >= first && at.key < last; }, text);
    }
  }
}

TEST(Parts, RefuseHeadsThatDoNotExist) {
  expect_error("heads_in: expected heads from 0 to 4, got 3 to 5", heads_in(3, 5), shape_of(8, 8));
  expect_error("heads_in: expected heads from 0 to 4, got -1 to 2", heads_in(-1, 2), shape_of(8, 8));
  expect_error("heads_in: expected heads from 0 to 4, got 2 to 1", heads_in(2, 1), shape_of(8, 8));
}

}  // namespace
}  // namespace attend
