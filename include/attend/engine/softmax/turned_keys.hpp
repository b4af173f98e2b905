// SPDX-License-Identifier: BSD-3-Clause
// The keys of a block of the split engine, rotated as they are read (policy/position/key_turns.hpp): copies in the
// accumulation type, whatever elements the store has. A block of 64 keys of 128 channels is 32 KiB, which is read again
// from the level-1 or level-2 cache.
#pragma once

#include "../../cache/quantize.hpp"
#include "../../policy/position/key_turns.hpp"
#include "key_rows.hpp"
#include "row_list.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <StorageElement Key, class Position>
class turned_keys {
 public:
  using A = storage_accumulation_t<Key>;

  /// `stored` and `dimension` are the channels of a key as it is stored, and of a copy.
  turned_keys(scratch& memory, Position const& position, attend::detail::turn_table<A> const& table, index_t stored,
              index_t dimension)
      : position_(position),
        turns_(memory, position, table),
        stored_(stored),
        dimension_(dimension),
        lines_(divide_up(stored / elements_in<Key> * static_cast<index_t>(sizeof(Key)), read_ahead::line)),
        stride_(round_up(dimension, simd::width<A>)),
        copies_(memory.allocate<A>(split_block_keys * stride_)) {
    std::fill_n(copies_, split_block_keys * stride_, A(0));
    for (index_t i = 0; i < split_block_keys; ++i) row_[i] = copies_ + i * stride_;
  }

  index_t vectors() const { return stride_ / simd::width<A>; }

  /// Rotates the keys of a block, which are those of a head of a source, and returns the addresses of copies. Meanwhile
  /// as many lines are prefetched as are read.
  template <KeyValueSource Source, StorageElement Value>
  void const* const* read(source_rows<Source> const& rows, attend::detail::sequence const& sequence,
                          split_block<Key, Value> const& block, read_ahead& ahead) {
    attended_place at = place_of_key(rows, sequence, 0, block.first_row);
    index_t j = 0;
    byte_run next = ahead.next;
    auto const turn = [&](index_t position) {
      at.position = position;
      at.token = sequence.first_key + position;
      for (index_t line = 0; line < lines_; ++line) ahead.fetch(next);
      turn_row(block, j++, at);
      ++at.row;
    };
    if constexpr (reads_positions)
      for_each_row(rows, rows.rows(block.first_row), block.first_row, block.count,
                   [&](auto const& run, index_t row) { turn(run.position + row); });
    else
      while (j < block.count) turn(0);
    ahead.next = next;
    return row_;
  }

 private:
  static constexpr bool reads_positions = !requires { requires !Position::reads_positions; };

  template <StorageElement Value>
  void turn_row(split_block<Key, Value> const& block, index_t j, attended_place const& at) {
    A* const to = copies_ + j * stride_;
    auto const* const from = static_cast<Key const*>(block.keys.row[j]);
    if constexpr (is_scaled<Key>) {
      key_value_rows<Key, Value> one;
      one.key = from;
      one.key_scale = block.key_scale + j;
      one.channel_scale = block.channel_scale;
      attend::detail::read_key(one, 0, stored_, to);
      turn(at, to, to);
    } else {
      turn(at, from, to);
    }
  }
  template <Element From>
  void turn(attended_place const& at, From const* from, A* to) {
    if constexpr (requires { position_.key_turn(turns_.at(at)); })
      position_.key_turn(turns_.at(at)).apply(from, to, dimension_);
    else
      turns_.apply(at, from, to, dimension_);
  }

  Position const& position_;
  attend::detail::key_turns<Position, A> turns_;
  index_t stored_, dimension_, lines_, stride_;
  A* copies_;
  void const* row_[split_block_keys];
};

/// What stands in its place where keys are read as they are.
struct unturned_keys {};

}  // namespace attend::inline ATTEND_TARGET::engine
