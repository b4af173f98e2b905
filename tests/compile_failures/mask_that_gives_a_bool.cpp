// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a mask needs visible(place) const, which gives a truth for each lane, or bind(rows, range)
// A mask of the user's own that compares numbers, and not positions.
#include <attend/softmax.hpp>

struct even_keys {
  using option_kind = attend::option::mask;
  void check(attend::extend::problem_shape const&) const {}
  template <class T>
  attend::extend::key_range bounds(attend::extend::tile_rows<T> const& rows) const {
    return {0, rows.keys};
  }
  template <class T>
  attend::extend::visibility classify(attend::extend::tile_rows<T> const&, attend::extend::key_range) const {
    return attend::extend::visibility::some;
  }
  template <class T>
  bool visible(attend::extend::mask_place<T> const& place) const {
    return place.key_index % 2 == 0;
  }
};

void call(attend::tensor_view<float, 4> const& t) { attend::softmax_attention(t, t, t, t, even_keys{}); }
