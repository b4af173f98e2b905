// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a store needs key_element and value_element, types of elements that can be stored
// A store of elements that cannot be stored.
#include "partial_store.hpp"

void call(attend::tensor_view<float, 4> const& t, store_without_rows<int> const& store) {
  attend::decode_attention(t, store, t);
}
