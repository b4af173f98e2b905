// SPDX-License-Identifier: BSD-3-Clause
// The logits of a block of keys for all query heads that share the keys, where they do not share the values: heads of
// several tasks of the split engine, which take turns (split.hpp).
//
//   logits[key][row] = q_row . k_key          rows are (query, head) pairs of all these heads, heads innermost
//
// Reading a key from the cache and widening it takes nearly as long as reading it from memory. So the first task that
// asks has them computed for all, and each takes its own rows. Tasks whose block is another one, since they read their
// rows in other runs, are refused: they compute their logits themselves.
#pragma once

#include <optional>

#include "split_step.hpp"
#include "tile_queries.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// `KeyPairs` and `ValuePairs` are those of the tasks' steps; `MayUseUnit` says whether a matrix unit may multiply.
/// Stored keys are read as elements of type `Read`: another one where they are copied.
template <Element T, StorageElement Key, StorageElement Value, bool KeyPairs, bool ValuePairs, bool MayUseUnit,
          StorageElement Read = Key>
class split_scores {
 public:
  using A = accumulation_t<T>;
  using block_type = split_block<Key, Value>;
  static constexpr int width = simd::width<A>;

  /// The rows of `heads` query heads from `first_head` on, which see the keys of key-value head `group` of the source,
  /// for a matrix unit if `on_unit`.
  template <class Position, class Source>
  split_scores(scratch& memory, problem<T> const& p, Position const& position, [[maybe_unused]] Source const& source,
               [[maybe_unused]] index_t group, index_t sequence_number, attend::detail::sequence const& sequence,
               index_t first_head, index_t heads, index_t key_vectors, [[maybe_unused]] bool on_unit)
      : p_(p), heads_(memory.allocate<index_t>(heads)) {
    head_count_ = list_active_heads(p, sequence.batch, first_head, heads, heads_);
    index_t const rows = sequence.asked() * head_count_;
    group_count_ = divide_up(rows, width);
    groups_ = new (memory.allocate<split_rows<A>>(group_count_)) split_rows<A>[static_cast<std::size_t>(group_count_)];
    logits_ = memory.allocate<A>(group_count_ * logits_of_group);
    if constexpr (MayUseUnit)
      if (on_unit) {
        unit_.emplace();
        pairs_.emplace(*unit_, memory, p.shape.key_dimension, p.shape.value_dimension, p.scale);
      }
    for (index_t g = 0; g < group_count_; ++g) {
      place_rows(groups_[g].rows, p.shape, sequence_number, sequence, heads_, head_count_,
                 sequence.answered * head_count_ + g * width,
                 static_cast<int>(std::min<index_t>(width, rows - g * width)));
      simd::pair_bits const* query_pairs = nullptr;
      if constexpr (MayUseUnit)
        if (pairs_) query_pairs = pack_query_pairs(p, position, groups_[g].rows, width, memory);
      if constexpr (!std::same_as<Position, attend::detail::absent>) place_on_head(groups_[g].rows, source, group);
      groups_[g].open(memory, key_vectors, 0, KeyPairs, query_pairs);
    }
  }

  /// Packs the queries for keys with these channel scales. `row` has room for one query, `angles` for a rotation.
  template <class Position>
  void pack_queries(Position const& position, float const* channel_scale, index_t key_vectors, A* row, A* angles) {
    if (pairs_) return;
    for (index_t g = 0; g < group_count_; ++g)
      groups_[g].template pack<Read>(p_, position, channel_scale, key_vectors, row, angles);
  }

  /// Says which block is asked for next, and how it is read.
  void move_to(block_type const& block, split_reading<Read, Value> const& reading) {
    block_ = &block;
    reading_.emplace(reading);
    reading_->pairs = pairs_ ? &*pairs_ : nullptr;
    reading_->scored = false;
    ready_ = false;
  }

  /// Whether the keys of a block are those of the present one.
  bool holds(block_type const& block) const {
    return block_ && block_->count == block.count && block_->channel_scale == block.channel_scale &&
           std::equal(block.keys.row, block.keys.row + block.count, block_->keys.row);
  }

  /// Writes the logits [key][rows.lanes] of some rows of a task whose heads are the `count` ones from `first_head` on,
  /// of which `first_row` is the first.
  void copy_to(A* logits, split_rows<A> const& rows, index_t first_row, index_t first_head, index_t count,
               any_policies<A> const& call, read_ahead* ahead) {
    if (!ready_) compute(call, ahead);
    index_t const before = std::lower_bound(heads_, heads_ + head_count_, first_head) - heads_, keys = block_->count;
    for (int lane = 0; lane < rows.lanes; ++lane) {
      A* to = logits + lane;
      if (lane >= rows.rows.count) {
        for (index_t j = 0; j < keys; ++j, to += rows.lanes) *to = 0;
        continue;
      }
      index_t const row = first_row + lane, own = row / count * head_count_ + before + row % count;
      index_t const lanes = groups_[own / width].lanes;
      A const* from = logits_ + own / width * logits_of_group + own % width;
      for (index_t j = 0; j < keys; ++j, to += rows.lanes, from += lanes) *to = *from;
    }
  }

 private:
  static constexpr index_t logits_of_group = split_block_keys * width + width;

  void compute(any_policies<A> const& call, read_ahead* ahead) {
    ready_ = true;
    reading_->ahead = ahead;
    key_range const range{block_->position, block_->position + block_->count};
    if (pairs_) pairs_->move_to(reading_->key_rows, reading_->value_rows, block_->count);
    for (index_t g = 0; g < group_count_; ++g) {
      split_step<Read, Value, KeyPairs, ValuePairs>(groups_[g], *reading_, range, logits_ + g * logits_of_group, false)
          .score(call, false);
      // All rows read the same memory.
      reading_->ahead = nullptr;
    }
  }

  problem<T> const& p_;
  index_t* heads_;
  index_t head_count_ = 0, group_count_ = 0;
  split_rows<A>* groups_ = nullptr;
  A* logits_ = nullptr;  // [group][key][lanes]
  std::optional<simd::pair_unit> unit_;
  std::optional<split_pairs> pairs_;
  block_type const* block_ = nullptr;
  std::optional<split_reading<Read, Value>> reading_;
  bool ready_ = false;
};

}  // namespace attend::inline ATTEND_TARGET::engine
