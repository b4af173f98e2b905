// SPDX-License-Identifier: BSD-3-Clause
// Masks of a user's own that lack members, to which each file here adds what it is about.
#pragma once

#include <attend/softmax.hpp>

/// Any key may be seen; nothing says of which tiles that holds.
struct mask_with_bounds {
  using option_kind = attend::option::mask;
  void check(attend::extend::problem_shape const&) const {}
  template <class T>
  attend::extend::key_range bounds(attend::extend::tile_rows<T> const& rows) const {
    return {0, rows.keys};
  }
};

/// The same, and every pair is asked for; nothing answers.
struct mask_with_classify : mask_with_bounds {
  template <class T>
  attend::extend::visibility classify(attend::extend::tile_rows<T> const&, attend::extend::key_range) const {
    return attend::extend::visibility::some;
  }
};
