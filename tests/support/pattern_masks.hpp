// SPDX-License-Identifier: BSD-3-Clause
// What the tests of masks of fixed patterns share: lengths to try them on, a problem's shape, and both kinds of check.
#pragma once

#include <utility>

#include "expect_error.hpp"
#include "mask_checks.hpp"

namespace attend::test {
using namespace extend;

/// Queries and keys.
inline std::vector<std::pair<index_t, index_t>> const lengths{{1, 1},    {1, 200},  {200, 1},  {65, 65},
                                                              {30, 170}, {170, 30}, {257, 257}};

inline problem_shape shape_of(index_t queries, index_t keys, index_t heads = 4) {
  return {1, heads, 1, 1, queries, keys, 4, 4, 1};
}

/// The mask says what the plain function says, and knows its tiles exactly.
template <class M>
void expect_mask(M const& mask, problem_shape const& shape, reference::visible_function const& visible,
                 testing::Message const& what) {
  EXPECT_TRUE(is_sound(mask, shape, visible)) << what << ", " << shape.queries << " queries, " << shape.keys << " keys";
  EXPECT_TRUE(is_exact(mask, shape, visible)) << what << ", " << shape.queries << " queries, " << shape.keys << " keys";
}

/// The mask does not fit the shape, and says so.
template <class M>
void expect_error(std::string const& message, M const& mask, problem_shape const& shape) {
  expect_error(message, [&] { mask.check(shape); });
}

}  // namespace attend::test
