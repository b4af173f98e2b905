// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a mask needs visible(place) const, which gives a truth for each lane, or bind(rows, range)
// A mask of the user's own whose bind gives a function of two positions, and not of a place.
#include "partial_masks.hpp"

struct earlier : mask_with_classify {
  template <class T>
  auto bind(attend::extend::tile_rows<T> const&, attend::extend::key_range) const {
    return [](auto query, auto key) { return key <= query; };
  }
};

void call(attend::tensor_view<float, 4> const& t) { attend::softmax_attention(t, t, t, t, earlier{}); }
