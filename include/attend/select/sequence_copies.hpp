// SPDX-License-Identifier: BSD-3-Clause
// One sequence of a store as several: a source in which each of them has its rows, where they lie. Several lists of one
// sequence, each with a softmax of its own, are then one call of an engine.
#pragma once

#include "../cache/key_value_rows.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// A view; the source must outlive it.
template <KeyValueSource Source>
struct sequence_copies {
  using key_element = typename Source::key_element;
  using value_element = typename Source::value_element;

  Source const& source;
  index_t sequence, copies;

  index_t sequences() const { return copies; }
  index_t key_value_heads() const { return source.key_value_heads(); }
  index_t key_dimension() const { return source.key_dimension(); }
  index_t value_dimension() const { return source.value_dimension(); }
  index_t size(index_t) const { return source.size(sequence); }
  index_t stored(index_t, index_t head) const { return source.stored(sequence, head); }
  key_value_rows<key_element, value_element> rows(index_t, index_t head, index_t first) const {
    return source.rows(sequence, head, first);
  }
};

}  // namespace attend::inline ATTEND_TARGET::detail
