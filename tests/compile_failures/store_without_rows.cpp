// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a store needs rows(sequence, head, first) const, which gives key_value_rows
// A store of the user's own that lacks a member.
#include "partial_store.hpp"

void call(attend::tensor_view<float, 4> const& t, store_without_rows<float> const& store) {
  attend::softmax_attention(t, store, t);
}
