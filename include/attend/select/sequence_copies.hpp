// SPDX-License-Identifier: BSD-3-Clause
// A key-value source with several sequences, all of which are one sequence of a store, read in place. So several lists
// of rows of that sequence, each with a softmax of its own, are one call of an engine.
#pragma once

#include "../cache/key_value_rows.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// `copies` sequences that are sequence `sequence` of the source. The source must outlive it.
template <KeyValueSource Source>
struct sequence_copies {
  using key_element = typename Source::key_element;
  using value_element = typename Source::value_element;

  Source const& source;
  index_t sequence, copies;

  index_t sequences() const { return copies; }
  index_t key_value_heads() const { return source.key_value_heads(); }
  index_t key_heads() const { return key_heads_of(source); }
  index_t value_heads() const { return value_heads_of(source); }
  index_t key_dimension() const { return source.key_dimension(); }
  index_t value_dimension() const { return source.value_dimension(); }
  index_t size(index_t) const { return source.size(sequence); }
  index_t stored(index_t, index_t head) const { return source.stored(sequence, head); }
  key_value_rows<key_element, value_element> rows(index_t, index_t head, index_t first) const {
    return source.rows(sequence, head, first);
  }
};

}  // namespace attend::inline ATTEND_TARGET::detail
