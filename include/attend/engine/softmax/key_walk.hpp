// SPDX-License-Identifier: BSD-3-Clause
// The walk of the tiles of a task over the keys: which block of keys comes next, and which of its keys each tile
// processes.
//
// The mask names the runs of keys that a tile needs (policy/mask/mask.hpp), in ascending order. A block begins with the
// first key that any tile needs next, and ends with the last key within block_keys of it that any tile needs; keys
// between runs are never read. The keys of a block that are in one run of a tile are a piece, which the tile processes
// in one step.
#pragma once

#include <span>

#include "tile.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <class A, class Mask>
class key_walk {
 public:
  /// Keys of a block that one tile processes in one step.
  struct piece {
    index_t tile;
    key_range keys;
  };

  /// The walk of `count` tiles over the keys of a part, in blocks of at most `block_keys`. With `aligned`, blocks end
  /// at multiples of block_keys, and a tile processes all keys of a block from the first to the last key that its mask
  /// may show: so the keys that a query processes do not depend on the other queries of its tile.
  key_walk(scratch& memory, Mask const& mask, tile<A> const* tiles, index_t count, key_range part, index_t block_keys,
           bool aligned = false)
      : mask_(mask), tiles_(tiles), count_(count), part_(part), block_keys_(block_keys), aligned_(aligned) {
    bounds_ = memory.allocate<key_range>(count);
    runs_ = memory.allocate<key_range>(count);
    pieces_ = memory.allocate<piece>(count * block_keys);
    for (index_t t = 0; t < count; ++t) {
      bounds_[t] = mask.bounds(tiles[t].rows);
      runs_[t] = run_of(t, part.first);
    }
  }

  /// The keys of the next block: the hull of the tiles' next runs, cut to the length of a block; empty at the end.
  key_range next() const {
    key_range block{part_.last, part_.last};
    for (index_t t = 0; t < count_; ++t)
      if (!runs_[t].empty()) block.first = std::min(block.first, runs_[t].first);
    index_t const most = end_of_block(block.first, std::min(block.first + block_keys_, part_.last));
    block.last = block.first;
    for (index_t t = 0; t < count_; ++t)
      if (runs_[t].first < most) block.last = std::max(block.last, std::min(runs_[t].last, most));
    return block;
  }

  /// Skips all keys before `first`.
  void forget_before(index_t first) {
    for (index_t t = 0; t < count_; ++t) {
      key_range& run = runs_[t];
      if (run.empty() || run.first >= first) continue;
      if (run.last > first)
        run.first = first;
      else
        run = run_of(t, first);
    }
  }

  /// Makes aligned blocks end at `key` as well: the store may have dropped the keys behind it.
  void end_blocks_at(index_t key) { end_ = key; }

  /// Assigns the keys of a block, at most `most`, to the tiles as pieces, and moves on behind them. Returns the keys of
  /// the block.
  key_range next_block(key_range most) {
    most.last = end_of_block(most.first, most.last);
    key_range block{most.first, most.first};
    piece_count_ = 0;
    for (index_t t = 0; t < count_; ++t)
      for (key_range& run = runs_[t]; !run.empty() && run.first < most.last;) {
        key_range const keys = intersection(run, most);
        pieces_[piece_count_++] = {t, keys};
        block.last = std::max(block.last, keys.last);
        if (run.last > most.last)
          run.first = most.last;
        else
          run = run_of(t, run.last);
      }
    return block;
  }
  /// The pieces of the block, in the order of their tiles.
  std::span<piece const> pieces() const { return {pieces_, static_cast<std::size_t>(piece_count_)}; }

 private:
  /// The end of a block that begins at `first`: at most `most`, but before a run that would be cut there and that the
  /// next block can hold whole, unless the earlier end cuts another run.
  index_t end_of_block(index_t first, index_t most) const {
    if (aligned_) {
      most = std::min(most, (first / block_keys_ + 1) * block_keys_);
      return first < end_ ? std::min(most, end_) : most;
    }
    index_t end = most;
    for (index_t t = 0; t < count_; ++t)
      if (runs_[t].first < most && runs_[t].last > most && runs_[t].count() <= block_keys_)
        end = std::min(end, runs_[t].first);
    if (end == most) return most;
    bool whole = false;  // the block holds a whole run, and cuts none
    for (index_t t = 0; t < count_; ++t) {
      if (runs_[t].empty() || runs_[t].first >= end) continue;
      if (runs_[t].last > end) return most;
      whole = true;
    }
    return whole ? end : most;
  }

  /// The first run of keys of the part, at or after `from`, that may be visible to a tile.
  key_range run_of(index_t tile, index_t from) const {
    return intersection(aligned_ ? bounds_[tile] : mask_.next(tiles_[tile].rows, from), {from, part_.last});
  }

  Mask const& mask_;
  tile<A> const* tiles_;
  index_t count_;
  key_range part_;
  index_t block_keys_;
  bool aligned_;
  index_t end_ = 0;
  key_range* bounds_;  // of each tile
  key_range* runs_;    // of each tile, its next run
  piece* pieces_;
  index_t piece_count_ = 0;
};

/// Moves to each block of the walk over rows that a store may have dropped some of: function(its first row, its keys).
template <class Rows, class Walk, class Function>
void for_blocks(Rows const& rows, Walk& walk, index_t block_keys, Function const& function) {
  for (key_range wanted = walk.next(); !wanted.empty(); wanted = walk.next()) {
    index_t const row = rows.first_row_from(wanted.first);
    if (row >= rows.stored()) break;
    index_t const first = rows.rows(row).position;
    if (first > wanted.first) {
      // The store has dropped the keys before `first`.
      walk.forget_before(first);
      continue;
    }
    function(row, walk.next_block({first, first + rows.consecutive(row, block_keys)}));
  }
}

}  // namespace attend::inline ATTEND_TARGET::engine
