// SPDX-License-Identifier: BSD-3-Clause
// Memory that is prefetched from four pages in turns: every line once, and before it is read.
#include <attend/core/stream_ahead.hpp>

#include <gtest/gtest.h>

#include <set>

namespace attend {
namespace {

TEST(StreamAhead, GoesToEachLineOfTheNextPagesOnce) {
  constexpr std::uintptr_t line = 64, page = 4096, four = 4 * page, begin = 5 * four;
  std::set<std::uintptr_t> lines;
  for (std::uintptr_t at = begin; at < begin + four; at += line) {
    std::uintptr_t const target = detail::stream_ahead::in_turns(at + 12);
    EXPECT_EQ(target % line, 0u);
    EXPECT_GE(target, begin + four);
    EXPECT_LT(target, begin + 2 * four);
    // The next line is of another page.
    EXPECT_NE(target / page, detail::stream_ahead::in_turns(at + line) / page);
    lines.insert(target);
  }
  EXPECT_EQ(lines.size(), four / line);
}

}  // namespace
}  // namespace attend
