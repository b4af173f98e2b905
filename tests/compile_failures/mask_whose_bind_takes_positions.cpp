// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a mask needs visible(place) const, which gives a truth for each lane, or bind(rows, range)
// A mask of the user's own whose bind gives a function of two positions, and not of a place.
#include <attend/softmax.hpp>

struct earlier {
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
  auto bind(attend::extend::tile_rows<T> const&, attend::extend::key_range) const {
    return [](auto query, auto key) { return key <= query; };
  }
};

void call(attend::tensor_view<float, 4> const& t) { attend::softmax_attention(t, t, t, t, earlier{}); }
