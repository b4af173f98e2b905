// SPDX-License-Identifier: BSD-3-Clause
// Scores of keys of a cache that lie anywhere, for one query: what a search in a graph of keys asks for.
//
//   score[i] = query . key(token[i])          keys in their stored type, in place
//
// All lines of the listed keys are prefetched before the first is read: a key is some lines next to each other, and a
// core fetches those of several keys at a time. Keys that do not fill whole vectors are copied. Channel scales differ
// from run to run, so keys that have them are widened one by one.
//
// Cost: the bytes of the listed keys, which come as fast as memory gives them in no order.
#pragma once

#include "../cache/quantize.hpp"
#include "../simd/dot.hpp"
#include "row_scores.hpp"

namespace attend::inline ATTEND_TARGET::detail {

template <KeyValueSource Cache>
class listed_scores {
 public:
  using Key = typename Cache::key_element;
  using A = storage_accumulation_t<Key>;

  /// Allocates scratch memory for up to `most` keys at a time.
  listed_scores(scratch& memory, Cache const& cache, index_t sequence, index_t head, index_t most)
      : cache_(cache),
        sequence_(sequence),
        head_(head),
        dimension_(cache.key_dimension()),
        elements_(divide_up(dimension_, elements_in<Key>)),
        padded_(round_up(dimension_, simd::group_elements<Key>) / elements_in<Key>),
        packed_(memory, 1, dimension_),
        query_(memory.allocate<A>(dimension_ + 1)),
        wide_(memory.allocate<A>(dimension_ + 1)),
        row_(memory.allocate<Key const*>(most + listed_ahead + 1)),
        scale_(memory.allocate<float>(most + 1)) {
    if (padded_ == elements_) return;
    copy_ = memory.allocate<Key>(most * padded_);
    std::memset(static_cast<void*>(copy_), 0, static_cast<std::size_t>(most * padded_) * sizeof(Key));
  }

  void set_query(A const* query) {
    std::copy_n(query, dimension_, query_);
    packed_.set(0, query_);
  }

  /// Writes the score of each of `count` tokens.
  void score(std::int32_t const* token, index_t count, float* to) {
    bool in_channels = false;
    for (index_t i = 0; i < count; ++i) {
      auto const run = cache_.rows(sequence_, head_, token[i]);
      row_[i] = run.key;
      if constexpr (is_scaled<Key>) scale_[i] = *run.key_scale;
      in_channels = in_channels || run.channel_scale;
      char const* const line = reinterpret_cast<char const*>(run.key);
      index_t const bytes = elements_ * static_cast<index_t>(sizeof(Key));
      for (index_t at = 0; at < bytes; at += static_cast<index_t>(cache_line)) __builtin_prefetch(line + at, 0, 3);
    }
    if (in_channels) return score_widened(token, count, to);
    for (index_t i = 0; copy_ && i < count; ++i)
      row_[i] = static_cast<Key const*>(
          std::memcpy(copy_ + i * padded_, row_[i], static_cast<std::size_t>(elements_) * sizeof(Key)));
    // What is prefetched behind the last row is that row.
    if (count > 0) std::fill_n(row_ + count, listed_ahead, row_[count - 1]);
    packed_.score_listed({.row = nullptr,
                          .stride = 0,
                          .count = count,
                          .scale = is_scaled<Key> ? scale_ : nullptr,
                          .scale_stride = 1,
                          .to = to,
                          .to_stride = count,
                          .largest = false,
                          .listed = row_});
  }

 private:
  void score_widened(std::int32_t const* token, index_t count, float* to) {
    for (index_t i = 0; i < count; ++i) {
      read_key(cache_.rows(sequence_, head_, token[i]), 0, dimension_, wide_);
      to[i] = static_cast<float>(simd::dot(wide_, query_, dimension_));
    }
  }

  Cache const& cache_;
  index_t sequence_, head_, dimension_, elements_, padded_;
  row_queries<Key> packed_;
  A* query_;
  A* wide_;
  Key const** row_;
  float* scale_;
  Key* copy_ = nullptr;
};

}  // namespace attend::inline ATTEND_TARGET::detail
