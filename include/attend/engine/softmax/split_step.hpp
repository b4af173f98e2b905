// SPDX-License-Identifier: BSD-3-Clause
// One step of some rows of the split engine, which process a block of keys (softmax_step.hpp): the dimension in the
// lanes, logits [key][rows.lanes]. Policies get the logits in the layout of a tile, one vector of rows for each key.
#pragma once

#include "row_list.hpp"
#include "softmax_step.hpp"
#include "split_pairs.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// A block of keys and values, as all rows of a task read it.
template <StorageElement Key, StorageElement Value>
struct split_reading {
  void const* const* key_rows;
  void const* const* value_rows;
  float const* key_scale;
  float const* value_scale;
  index_t key_vectors, value_vectors;  // of a row
  index_t value_step;                  // the number of keys whose values are read at a time
  read_ahead* ahead;                   // null where others have prefetched
  split_pairs* pairs;                  // null without a matrix unit
  bool scored = false;                 // whether the logits are there already (split_scores.hpp)
  bool has_gate = false;               // whether the last key is a gate (split_groups.hpp)
  bool copied = false;                 // whether keys are copies, whose making has prefetched
};

/// `KeyPairs` and `ValuePairs` say whether keys and values are multiplied as integers.
template <StorageElement Key, StorageElement Value, bool KeyPairs, bool ValuePairs>
class split_step {
 public:
  using A = storage_accumulation_t<Key>;
  static constexpr int width = simd::width<A>;

  /// `gate` is where the logits of a gate go.
  split_step(split_rows<A>& rows, split_reading<Key, Value> const& block, key_range range, A* logits, bool has_values,
             A* gate = nullptr)
      : gate_(gate),
        rows_(rows),
        block_(block),
        range_(range),
        keys_(range.count()),
        padded_(block.pairs ? split_pairs::padded(keys_) : round_up(keys_, width / rows.tile_rows_count())),
        logits_(logits),
        has_values_(has_values) {}

  bool has_values() const { return has_values_; }

  bool score(any_policies<A> const&, bool) {
    if (block_.scored) return true;
    if constexpr (may_use_pairs)
      if (block_.pairs) {
        block_.pairs->score(rows_.pairs, logits_, block_.ahead);
        return true;
      }
    for_tile_rows([&]<int R>() { score_rows<R>(); });
    return true;
  }

  void apply(any_policies<A> const& call, bool masked) {
    if (masked || call.has_scores) {
      simd::vector<A> peak[1];
      as_tile([&](A* wide) { call.apply(1, rows_.rows, range_, masked, wide, peak); });
    }
    if (!block_.has_gate) return;
    // A gate has no value: it is hidden.
    A* const last = logits_ + (keys_ - 1) * rows_.lanes;
    std::copy_n(last, rows_.lanes, gate_);
    std::fill_n(last, rows_.lanes, -infinity<A>);
  }

  void write_logits(tensor_view<A, 4> const& pairs) const {
    for (int lane = 0; lane < rows_.rows.count; ++lane) {
      A* const to = row_of_lane(pairs, rows_.rows, lane) + range_.first;
      for (index_t j = 0; j < keys_; ++j) to[j] = logits_[j * rows_.lanes + lane];
    }
  }

  void mark_hidden(bool may_hide) {
    std::fill(logits_ + keys_ * rows_.lanes, logits_ + padded_ * rows_.lanes, -infinity<A>);
    may_hide_ = may_hide || block_.has_gate;
    if (may_hide_) engine::mark_hidden(logits_, keys_ * rows_.lanes, hidden_);
  }

  /// Shows the logits to statistics, and the weights as soon as they are known.
  void show_logits(row_statistics<A>& to) {
    statistics_ = &to;
    key_range const all{0, keys_};
    as_tile([&](A* wide) { to.see_logits(1, range_, &all, wide, rows_.statistics); }, false);
  }

  void raise_maximum() { rows_.raise_maximum(largest_of(logits_, vectors())); }

  void weigh(any_policies<A> const& call) {
    key_range const all{0, vectors()};
    call.weigh(1, rows_.rows, &all, rows_.maximum, rows_.weight_sum, logits_);
    if (statistics_) show_weights();
    if constexpr (is_scaled<Value>) rows_.scale_keys(logits_, vectors(), block_.value_scale);
  }

  void multiply_gain(A const* gain) {
    alignas(64) A of_keys[array_size(split_block_keys + width)] = {};
    std::copy_n(gain + range_.first, keys_, of_keys);
    rows_.scale_keys(logits_, vectors(), of_keys);
  }

  void multiply_pairs(any_policies<A> const& call) {
    as_tile([&](A* wide) { call.multiply_pairs(1, rows_.rows, range_, wide); });
  }

  void add_values() {
    if constexpr (may_use_pairs)
      if (block_.pairs)
        return block_.pairs->add_values(logits_, may_hide_ ? hidden_ : nullptr, rows_.sum, rows_.stride, block_.ahead);
    value_work<A> const work{block_.value_rows,    keys_,     logits_,     may_hide_ ? hidden_ : nullptr, rows_.lanes,
                             block_.value_vectors, rows_.sum, rows_.stride};
    if constexpr (ValuePairs)
      rows_.for_lanes(
          [&]<int Rows>() { add_pair_values_in_steps<Value, Rows>(work, block_.value_step, block_.ahead); });
    else
      for_tile_rows([&]<int R>() { add_values_in_steps<Value, R>(work, block_.value_step, block_.ahead); });
  }

 private:
  A* gate_;
  static constexpr bool may_use_pairs = simd::has_pair_products && simd::pair_unit::order.plain() &&
                                        std::same_as<Key, bfloat16> && std::same_as<Value, bfloat16>;

  index_t vectors() const { return padded_ * rows_.lanes / width; }

  using products = std::conditional_t<KeyPairs, pair_products<Key>, float_products<Key>>;

  // The number of vectors of a step is chosen here rather than in the lambda with the template parameter R: there, gcc
  // 13 accepts neither number as a constant.
  template <int R>
  void score_rows() {
    constexpr int line = product_line_vectors<Key, products>;
    if (block_.key_vectors * width % (line * products::numbers) == 0)
      score_rows_in_steps<R, line>();
    else
      score_rows_in_steps<R, products::group>();
  }
  /// Reads `Step` vectors of a key at a time.
  template <int R, int Step>
  void score_rows_in_steps() {
    read_ahead* const ahead = block_.copied ? nullptr : block_.ahead;
    index_t const vectors = block_.key_vectors * width / products::numbers;
    if constexpr (KeyPairs)
      score_keys<Key, products, R, Step>(block_.key_rows, block_.key_scale, padded_, rows_.integers,
                                         rows_.integer_scale, vectors, rows_.lanes, logits_, ahead);
    else
      score_keys<Key, products, R, Step>(block_.key_rows, block_.key_scale, padded_, rows_.query,
                                         static_cast<A const*>(nullptr), vectors, rows_.lanes, logits_, ahead);
  }

  /// Calls function.template operator()<R>() with the number of rows of a register tile.
  template <class Function>
  void for_tile_rows(Function&& function) const {
    switch (rows_.tile_rows_count()) {
      case 1:
        return function.template operator()<1>();
      case 2:
        return function.template operator()<std::min(2, max_split_rows<A>)>();
      default:
        return function.template operator()<max_split_rows<A>>();
    }
  }

  void show_weights() {
    key_range const all{0, keys_};
    as_tile([&](A* wide) { statistics_->see_weights(1, range_, &all, wide, rows_.maximum, rows_.statistics); }, false);
  }

  /// Calls a function with the logits copied to the layout of a tile, [key][width] with the rows in lanes, and copies
  /// them back if they may have changed.
  template <class Function>
  void as_tile(Function const& function, bool changes = true) {
    alignas(64) A wide[array_size(split_block_keys * width)];
    for (index_t j = 0; j < keys_; ++j)
      simd::store(wide + j * width, simd::vector<A>::load_unaligned(logits_ + j * rows_.lanes));
    function(wide);
    if (!changes) return;
    for (index_t j = 0; j < keys_; ++j) std::copy_n(wide + j * width, rows_.lanes, logits_ + j * rows_.lanes);
  }

  split_rows<A>& rows_;
  split_reading<Key, Value> const& block_;
  key_range range_;
  index_t keys_, padded_;  // the number of keys of the block, and rounded up to whole vectors of logits
  A* logits_;
  bool has_values_, may_hide_ = false;
  row_statistics<A>* statistics_ = nullptr;
  bool hidden_[array_size(split_block_keys * width)];
};

}  // namespace attend::inline ATTEND_TARGET::engine
