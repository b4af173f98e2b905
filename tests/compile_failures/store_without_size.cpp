// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a store needs size(sequence) const, which gives a number
// A store of the user's own whose size is not that of a sequence.
#include "partial_store.hpp"

struct whole_store : store_without_rows<float> {
  attend::index_t size() const { return 5; }
  attend::caches::key_value_rows<float> rows(attend::index_t, attend::index_t, attend::index_t) const { return {}; }
};

void call(attend::tensor_view<float, 4> const& t, whole_store& store) { attend::cached_attention(store, t, t, t, t); }
