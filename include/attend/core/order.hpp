// SPDX-License-Identifier: BSD-3-Clause
// Orders for the standard algorithms, as types of attend's own. std::sort(float*, float*, std::greater<>()) is one
// function for all instruction sets of a program, and the linker keeps either, which an older processor may not be able
// to run; with a comparison of ours each instruction set has its own. And the runs of lists in such an order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "types.hpp"

namespace attend::inline ATTEND_TARGET::detail {

struct ascending {
  template <class T, class U>
  constexpr bool operator()(T const& a, U const& b) const {
    return a < b;
  }
};

struct descending {
  template <class T, class U>
  constexpr bool operator()(T const& a, U const& b) const {
    return a > b;
  }
};

/// The number of consecutive integers, at most `most`, at the beginning of an ascending list that is not empty, by
/// bisection: entry i is the first entry + i only if all entries between them are consecutive.
inline index_t consecutive(std::span<std::int32_t const> list, index_t most) {
  std::size_t low = 1, high = std::min(list.size(), static_cast<std::size_t>(most));
  if (high == 1 || list[1] != list[0] + 1) return 1;
  auto const follows = [&](std::size_t count) {
    return list[count - 1] == list[0] + static_cast<std::int32_t>(count) - 1;
  };
  if (follows(high)) return static_cast<index_t>(high);
  while (high - low > 1) {
    std::size_t const middle = (low + high) / 2;
    (follows(middle) ? low : high) = middle;
  }
  return static_cast<index_t>(low);
}

}  // namespace attend::inline ATTEND_TARGET::detail
