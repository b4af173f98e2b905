// SPDX-License-Identifier: BSD-3-Clause
// The base of stores with one row_memory. A store defines the slot of the token at each position; this class derives
// from it how runs of rows are read and tokens written.
#pragma once

#include "append.hpp"
#include "row_memory.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// `count` consecutive slots of a block. Where `slot` is -1, the tokens at these positions are not stored.
struct slot_run {
  index_t block, slot, count;
};

/// What a store remembers of a sequence, beside its rows: the number of tokens appended; the number of rows to attend
/// to, beside the sinks; and the position of the oldest token that is not dropped, beside the sinks.
struct sequence_state {
  index_t size, reach, oldest;
};

/// Reads and writes what stores consist of (saved_sequence.hpp).
struct saved_parts;

/// A store has
///   size(sequence), stored(sequence, head), check_memory, grow, truncate
///   position_of(sequence, row)       the position of a stored row
///   locate(sequence, position)       a run of slots from this position on, which may reach past the last token
template <class Store, StorageElement Key, StorageElement Value>
class row_store : public appending<Store> {
 public:
  using key_element = Key;
  using value_element = Value;

  index_t sequences() const { return memory_.shape().sequences; }
  index_t key_value_heads() const { return memory_.shape().key_value_heads; }
  index_t key_heads() const { return memory_.shape().key_heads; }
  index_t value_heads() const { return memory_.shape().value_heads; }
  index_t key_dimension() const { return memory_.shape().key_dimension; }
  index_t value_dimension() const { return memory_.shape().value_dimension; }

  /// The longest run of rows from stored row `first` on.
  key_value_rows<Key, Value> rows(index_t sequence, index_t head, index_t first) const {
    return rows_at(sequence, head, self().position_of(sequence, first));
  }

  /// The longest run of rows from the token at this position on, which must be in memory, although it need not be one
  /// of the stored rows.
  key_value_rows<Key, Value> rows_at(index_t sequence, index_t head, index_t position) const {
    slot_run const run = self().locate(sequence, position);
    return memory_.rows(run.block, head, run.slot, std::min(run.count, self().size(sequence) - position), position);
  }

 protected:
  /// Writes tokens of a key head, or of a value head, whose shapes and positions are checked (append.hpp).
  template <Element K>
  void write_key_rows(index_t sequence, index_t head, index_t position, tensor_view<K const, 2> const& key) {
    for_slots(sequence, position, key.extent(0), [&](slot_run const& run, index_t token) {
      memory_.write_keys(run.block, head, run.slot, run.count, key.data() + token * key.stride(0), key.stride(0));
    });
  }
  template <Element V>
  void write_value_rows(index_t sequence, index_t head, index_t position, tensor_view<V const, 2> const& value) {
    for_slots(sequence, position, value.extent(0), [&](slot_run const& run, index_t token) {
      memory_.write_values(run.block, head, run.slot, run.count, value.data() + token * value.stride(0),
                           value.stride(0));
    });
  }

  /// A store with `blocks` blocks of `slots` slots for each head. `name` is the store's name, for error messages.
  row_store(char const* name, cache_shape const& shape, index_t blocks, index_t slots,
            tensor_view<float const, 2> const& channel_scales)
      : memory_(name, shape, blocks, slots, channel_scales) {}

  row_memory<Key, Value> memory_;

 private:
  friend saved_parts;

  Store const& self() const { return static_cast<Store const&>(*this); }

  /// Calls function(slots, token) for the slots of `tokens` tokens from `position` on, and the first token of each run.
  template <class Function>
  void for_slots(index_t sequence, index_t position, index_t tokens, Function const& function) const {
    for (index_t token = 0; token < tokens;) {
      slot_run run = self().locate(sequence, position + token);
      run.count = std::min(run.count, tokens - token);
      if (run.slot >= 0) function(run, token);
      token += run.count;
    }
  }
};

}  // namespace attend::inline ATTEND_TARGET::detail
