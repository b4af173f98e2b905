// SPDX-License-Identifier: BSD-3-Clause
// A store of the user's own without rows, for those that lack a member.
#pragma once

#include <attend/cache.hpp>

template <class Element>
struct store_without_rows {
  using key_element = Element;
  using value_element = Element;

  attend::index_t sequences() const { return 1; }
  attend::index_t key_value_heads() const { return 1; }
  attend::index_t key_dimension() const { return 8; }
  attend::index_t value_dimension() const { return 8; }
  attend::index_t size(attend::index_t) const { return 5; }
  attend::index_t stored(attend::index_t, attend::index_t) const { return 5; }
};
