// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a mask needs bounds(rows) const, which gives a key_range
// A member that is there and gives something else.
#include <attend/softmax.hpp>

struct all_keys : attend::options::full {
  template <class T>
  attend::index_t bounds(attend::extend::tile_rows<T> const& rows) const {
    return rows.keys;
  }
};

void call(attend::tensor_view<float, 4> const& t) { attend::softmax_attention(t, t, t, t, all_keys{}); }
