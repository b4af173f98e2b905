// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a mask needs visible(place) const, which gives a truth for each lane, or bind(rows, range)
// A mask of the user's own that compares numbers, and not positions.
#include "partial_masks.hpp"

struct even_keys : mask_with_classify {
  template <class T>
  bool visible(attend::extend::mask_place<T> const& place) const {
    return place.key_index % 2 == 0;
  }
};

void call(attend::tensor_view<float, 4> const& t) { attend::softmax_attention(t, t, t, t, even_keys{}); }
