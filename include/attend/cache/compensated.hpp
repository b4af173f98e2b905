// SPDX-License-Identifier: BSD-3-Clause
// A rolling cache that replaces the tokens it has dropped by one compensation token per head, their mean:
//
//   k^ = 1/N sum_j k_j     v^ = 1/N sum_j v_j     over the N positions j with sinks <= j <= p - window, p the query's
//
// The compensation token represents N tokens, so ln N is added to its logit (attention/cached/razor_attention.hpp).
// Keys are averaged as they were appended, rotated or not. Sums are in double, since in float a long sum would lose
// small terms.
//
// Memory: that of a rolling cache, and (key dimension + value dimension) doubles for each sequence and head. Cost: each
// token is read once more, when it leaves the window.
//
// Hanlin Tang et al.: RazorAttention: Efficient KV Cache Compression Through Retrieval Heads, 2024.
#pragma once

#include "rolling.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// Keys and values of the sinks and of the last tokens, and the mean of those between them, of any element type.
template <StorageElement Key, StorageElement Value = Key>
class compensated_cache : public detail::appending<compensated_cache<Key, Value>> {
 public:
  using key_element = Key;
  using value_element = Value;
  using A = extend::storage_accumulation_t<Key>;

  /// Allocates the memory of a rolling_cache of these sizes, and that of the sums. At most `chunk` tokens can be
  /// appended at a time: more would be dropped before any query attends to them.
  ///
  ///     compensated_cache<float> kept(shape, streaming{4, 4000}, 64);  // sinks and window, tokens at a time
  compensated_cache(cache_shape const& shape, streaming const& kept, index_t chunk = 1,
                    tensor_view<float const, 2> channel_scales = {})
      : rolling_(shape, kept, chunk, channel_scales),
        sums_(name, std::array{shape.sequences, shape.key_value_heads, shape.key_dimension + shape.value_dimension}),
        row_(name, std::array{std::max(shape.key_dimension, shape.value_dimension)}),
        dropped_(name, std::array{shape.sequences}) {
    for (index_t s = 0; s < shape.sequences; ++s) forget(s);
  }

  index_t sequences() const { return rolling_.sequences(); }
  index_t key_value_heads() const { return rolling_.key_value_heads(); }
  index_t key_heads() const { return rolling_.key_heads(); }
  index_t value_heads() const { return rolling_.value_heads(); }
  index_t key_dimension() const { return rolling_.key_dimension(); }
  index_t value_dimension() const { return rolling_.value_dimension(); }
  index_t size(index_t sequence) const { return rolling_.size(sequence); }
  index_t stored(index_t sequence, index_t head) const { return rolling_.stored(sequence, head); }
  key_value_rows<Key, Value> rows(index_t sequence, index_t head, index_t first) const {
    return rolling_.rows(sequence, head, first);
  }
  streaming const& mask() const { return rolling_.mask(); }
  index_t chunk() const { return rolling_.chunk(); }
  index_t bytes() const { return rolling_.bytes() + sums_.bytes() + row_.bytes() + dropped_.bytes(); }

  /// The store that has the compensation tokens of this head, and the number of the head in that store.
  std::pair<compensated_cache const*, index_t> compensated(index_t head) const { return {this, head}; }

  /// Removes the tokens of a sequence from `size` on. Throws argument_error where the tokens that would then be in the
  /// window are no longer stored, or are part of the compensation token.
  void truncate(index_t sequence, index_t size) {
    this->check_size(sequence, size);
    index_t const sinks = mask().sinks, dropped = dropped_[sequence];
    index_t const least = sinks + dropped + mask().window;
    if (size > sinks && dropped > 0 && size < least)
      extend::fail("size", "expected 0 to ", sinks, " or at least ", least, " tokens to stay, got ", size);
    rolling_.truncate(sequence, size);
    if (size <= sinks) forget(sequence);
  }

  /// The compensation token of a head, for queries in ascending order of their positions.
  class token {
   public:
    token(compensated_cache const& cache, index_t sequence, index_t head, extend::scratch& memory)
        : cache_(cache), sequence_(sequence), head_(head), count_(cache.dropped_[sequence]) {
      index_t const keys = cache.key_dimension(), values = cache.value_dimension();
      sums_ = memory.allocate<double>(keys + values);
      key_ = memory.allocate<A>(keys);
      value_ = memory.allocate<A>(values);
      row_ = memory.allocate<A>(std::max(keys, values));
      std::copy_n(cache.sums(sequence, head), keys + values, sums_);
    }

    /// Moves on to the query at this position. Positions must ascend, and be those of tokens that were appended last.
    void move_to(index_t position) {
      cache_.add_dropped(sequence_, head_, count_, position, sums_, row_);
      count_ = cache_.dropped_by(sequence_, position);
      double const share = 1 / static_cast<double>(count_);
      for (index_t c = 0; c < cache_.key_dimension(); ++c) key_[c] = static_cast<A>(sums_[c] * share);
      double const* const values = sums_ + cache_.key_dimension();
      for (index_t c = 0; c < cache_.value_dimension(); ++c) value_[c] = static_cast<A>(values[c] * share);
    }

    /// The number N of tokens that it represents. Where that is 0, key and value are not defined.
    index_t count() const { return count_; }
    A const* key() const { return key_; }
    A const* value() const { return value_; }

   private:
    compensated_cache const& cache_;
    index_t sequence_, head_, count_;
    double* sums_;
    A* key_;
    A* value_;
    A* row_;
  };

 private:
  friend detail::appending<compensated_cache>;
  friend detail::saved_parts;
  static constexpr char const* name = "compensated_cache";

  void check_memory(detail::new_tokens const& asked) const {
    if (asked.group_size > chunk())
      extend::fail(asked.argument, "expected at most ", chunk(), " tokens at a time (the cache's chunk), got ",
                   asked.group_size);
  }
  /// Makes room for new tokens. Tokens that leave the ring are added to the sums before their slots are written again.
  void grow(index_t sequence, index_t tokens) {
    extend::arithmetic_mode const arithmetic;
    for (index_t head = 0; head < key_value_heads(); ++head)
      add_dropped(sequence, head, dropped_[sequence], size(sequence) - 1, sums(sequence, head), row_.data());
    dropped_[sequence] = dropped_by(sequence, size(sequence) - 1);
    rolling_.make_room(sequence, tokens);
  }

  template <Element K>
  void write_key_rows(index_t sequence, index_t head, index_t position, tensor_view<K const, 2> const& key) {
    rolling_.write_keys(sequence, head, position, key);
  }
  template <Element V>
  void write_value_rows(index_t sequence, index_t head, index_t position, tensor_view<V const, 2> const& value) {
    rolling_.write_values(sequence, head, position, value);
  }

  double* sums(index_t sequence, index_t head) {
    return sums_.data() + (sequence * key_value_heads() + head) * (key_dimension() + value_dimension());
  }
  double const* sums(index_t sequence, index_t head) const {
    return sums_.data() + (sequence * key_value_heads() + head) * (key_dimension() + value_dimension());
  }

  void forget(index_t sequence) {
    dropped_[sequence] = 0;
    std::fill_n(sums(sequence, 0), key_value_heads() * (key_dimension() + value_dimension()), 0.0);
  }

  /// The number of tokens between the sinks and the window of the query at this position.
  index_t dropped_by(index_t sequence, index_t position) const {
    return std::max(dropped_[sequence], position - mask().window + 1 - mask().sinks);
  }

  /// Adds the tokens between the sinks and the window of the query at `position` to the sums, except for the first
  /// `count` of them, which the sums have already.
  void add_dropped(index_t sequence, index_t head, index_t count, index_t position, double* sums, A* row) const {
    for (index_t number = count; number < dropped_by(sequence, position); ++number) {
      auto const run = rolling_.rows_at(sequence, head, mask().sinks + number);
      detail::read_key(run, 0, key_dimension(), row);
      for (index_t c = 0; c < key_dimension(); ++c) sums[c] += static_cast<double>(row[c]);
      detail::read_value(run, 0, value_dimension(), row);
      for (index_t c = 0; c < value_dimension(); ++c) sums[key_dimension() + c] += static_cast<double>(row[c]);
    }
  }

  rolling_cache<Key, Value> rolling_;
  detail::buffer<double> sums_;  // [sequence, head, key dimension + value dimension], of the first `dropped` tokens
  detail::buffer<A> row_;
  detail::buffer<index_t> dropped_;
};

}  // namespace caches

}  // namespace attend::inline ATTEND_TARGET
