// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a mask needs classify(rows, range) const, which gives a visibility
// The same where it is joined with another, in a call of doubles.
#include "partial_masks.hpp"

struct after_all : mask_with_bounds {
  template <class T>
  auto visible(attend::extend::mask_place<T> const& at) const {
    return at.key_position >= at.query_position;
  }
};

void call(attend::tensor_view<double, 4> const& t) {
  attend::softmax_attention(t, t, t, t, after_all{} & attend::causal{});
}
