// SPDX-License-Identifier: BSD-3-Clause
// Neighborhoods by definition: whether a query's coordinate sees a key's, on one axis, and on all axes of a grid.
//
// On an axis of length L with window W, stride s and dilation d: both coordinates must be in the same residue class mod
// d. Within it, of length n, queries of a group of s share one window: that of the group's leader, the middle one (or
// the last one, if causal). A window has W / 2 coordinates before its leader, rounded down, and as many behind as make
// it W; at the borders it slides back inside. Causal windows end at the leader, begin at 0 at the earliest, and show
// nothing behind the query.
//
// Ali Hassani et al.: Generalized Neighborhood Attention, 2025, and NATTEN, its public implementation.
#pragma once

#include <vector>

#include "../core/types.hpp"

namespace attend::inline ATTEND_TARGET::reference {

struct neighborhood_rule {
  index_t extent, window, stride, dilation;
  bool causal;
  bool clip = false;  // windows are cut off at the borders instead
  index_t shift = 0;  // groups begin so much earlier
};

inline bool is_neighbor(neighborhood_rule const& rule, index_t query, index_t key) {
  if (query % rule.dilation != key % rule.dilation) return false;
  index_t length = 0;
  for (index_t x = query % rule.dilation; x < rule.extent; x += rule.dilation) ++length;
  index_t const i = query / rule.dilation, j = key / rule.dilation;
  index_t group = 0;  // where the query's group begins
  while (group + rule.stride - rule.shift <= i) group += rule.stride;
  group -= rule.shift;
  if (rule.causal) {
    index_t const leader = group + rule.stride - 1 < length ? group + rule.stride - 1 : length - 1;
    return j <= i && j > leader - rule.window;
  }
  index_t leader = group + rule.stride / 2;
  if (!rule.clip && leader > length - 1) leader = length - 1;
  index_t first = leader - rule.window / 2;
  if (!rule.clip) {
    while (first < 0) ++first;
    while (first + rule.window > length) --first;
  }
  return first <= j && j < first + rule.window;
}

/// Tokens are row-major, the last axis fastest.
inline bool is_neighbor(std::vector<neighborhood_rule> const& axes, index_t query, index_t key) {
  for (std::size_t a = axes.size(); a-- > 0;) {
    if (!is_neighbor(axes[a], query % axes[a].extent, key % axes[a].extent)) return false;
    query /= axes[a].extent;
    key /= axes[a].extent;
  }
  return true;
}

}  // namespace attend::inline ATTEND_TARGET::reference
