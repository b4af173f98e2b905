// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a mask needs classify(rows, range) const, which gives a visibility
// A mask of the user's own that lacks a member.
#include "partial_masks.hpp"

struct after_all : mask_with_bounds {
  template <class T>
  auto visible(attend::extend::mask_place<T> const& at) const {
    return at.key_position >= at.query_position;
  }
};

void call(attend::tensor_view<float, 4> const& t) { attend::softmax_attention(t, t, t, t, after_all{}); }
