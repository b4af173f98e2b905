// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: this store cannot be saved
#include <attend/cache/contiguous.hpp>
#include <attend/cache/saved_sequence.hpp>

attend::index_t call(attend::caches::key_value_tensors<float> const& store) {
  return attend::caches::saved_bytes(store, 0);
}
