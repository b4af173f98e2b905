// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a mask's next(rows, from) const, which it may have, gives a key_range
// A mask of the user's own whose runs of keys are of another type.
#include <utility>

#include "partial_masks.hpp"

struct any_key : mask_with_classify {
  template <class T>
  std::pair<attend::index_t, attend::index_t> next(attend::extend::tile_rows<T> const& rows,
                                                   attend::index_t from) const {
    return {from, rows.keys};
  }
  template <class T>
  auto visible(attend::extend::mask_place<T> const& place) const {
    return place.key_position >= 0;
  }
};

void call(attend::tensor_view<float, 4> const& t) { attend::softmax_attention(t, t, t, t, any_key{}); }
