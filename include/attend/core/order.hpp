// SPDX-License-Identifier: BSD-3-Clause
// Orders for the standard algorithms, as types of attend's own. std::sort(float*, float*, std::greater<>()) is one
// function for all instruction sets of a program, and the linker keeps either, which an older processor may not be able
// to run; with a comparison of ours each instruction set has its own.
#pragma once

#include "target.hpp"

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

}  // namespace attend::inline ATTEND_TARGET::detail
