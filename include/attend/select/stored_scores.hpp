// SPDX-License-Identifier: BSD-3-Clause
// Scores of the keys of a cache, which are read in place: for selectors that store no summaries of their own.
//
//   score[query][token] = query . key          or the largest over the queries
//
//   score_rows     of a range of rows
//   score_listed   of rows from anywhere, the largest over the queries
//
// Cost: the bytes of the keys, once for all queries of a head. Rows that do not fill whole vectors are copied, a few at
// a time. Listed rows are prefetched while those before them are scored. Channel scales are multiplied into the
// queries, which are packed again where the scales change.
#pragma once

#include <span>

#include "../cache/key_value_rows.hpp"
#include "row_scores.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// Scores keys of one head of a source for `queries` queries; query(i) returns the elements of query i.
template <KeyValueSource Source, class Query>
class stored_scores {
 public:
  using Key = typename Source::key_element;
  using A = storage_accumulation_t<Key>;

  stored_scores(scratch& memory, Source const& source, index_t sequence, index_t head, index_t queries,
                Query const& query)
      : source_(source),
        sequence_(sequence),
        head_(head),
        queries_(queries),
        query_(query),
        elements_(divide_up(source.key_dimension(), elements_in<Key>)),
        padded_(round_up(source.key_dimension(), simd::group_elements<Key>) / elements_in<Key>),
        packed_(memory, std::max<index_t>(queries, 1), source.key_dimension()),
        scaled_(memory.allocate<A>(source.key_dimension())),
        copy_(memory.allocate<Key>(rows_at_once * padded_)),
        scale_(memory.allocate<float>(rows_at_once)) {
    std::memset(static_cast<void*>(copy_), 0, static_cast<std::size_t>(rows_at_once * padded_) * sizeof(Key));
  }

  /// Writes the scores of stored rows [first, last) to to[query * to_stride + row - first], or if `largest` their
  /// largest over the queries to to[row - first].
  void score_rows(index_t first, index_t last, float* to, index_t to_stride, bool largest) {
    if (queries_ == 0) return;
    for (index_t row = first; row < last;) {
      auto const run = adjacent_rows(source_, sequence_, head_, row);
      pack(run.channel_scale);
      index_t count = std::min(run.count, last - row);
      Key const* key = run.key;
      index_t stride = run.key_stride;
      if (padded_ != elements_) {
        count = std::min(count, rows_at_once);
        for (index_t i = 0; i < count; ++i) std::copy_n(run.key + i * run.key_stride, elements_, copy_ + i * padded_);
        key = copy_;
        stride = padded_;
      }
      packed_.score({key, stride, count, run.key_scale, run.key_scale_stride, to + (row - first), to_stride, largest});
      row += count;
    }
  }

  /// Writes the largest score over the queries of each of some stored rows.
  void score_listed(std::span<std::int32_t const> rows, float* to) {
    auto const count = static_cast<index_t>(rows.size());
    if (queries_ == 0) {
      std::fill_n(to, count, -infinity<float>);
      return;
    }
    Key const* row[rows_at_once + listed_ahead];
    place here{*this}, ahead{*this};
    for (index_t i = 0; i < std::min(listed_ahead, count); ++i) ahead.prefetch(rows[static_cast<std::size_t>(i)]);
    for (index_t written = 0, some; written < count; written += some) {
      index_t const most = std::min(rows_at_once, count - written);
      for (some = 0; some < most; ++some) {
        row[some] = here.key_of(rows[static_cast<std::size_t>(written + some)]);
        // Rows of another scale wait for the next round.
        if (some > 0 && here.run.channel_scale != channel_scale_) break;
        pack(here.run.channel_scale);
        if (here.run.key_scale) scale_[some] = here.run.key_scale[here.row * here.run.key_scale_stride];
        if (padded_ != elements_) {
          std::copy_n(row[some], elements_, copy_ + some * padded_);
          row[some] = copy_ + some * padded_;
        }
      }
      for (index_t i = 0; i < listed_ahead; ++i)
        row[some + i] = ahead.key_of(rows[static_cast<std::size_t>(std::min(written + some + i, count - 1))]);
      packed_.score_listed({.row = nullptr,
                            .stride = padded_,
                            .count = some,
                            .scale = here.run.key_scale ? scale_ : nullptr,
                            .scale_stride = 1,
                            .to = to + written,
                            .to_stride = 0,
                            .largest = true,
                            .listed = row});
    }
  }

 private:
  /// Rows that are copied, or found, at once.
  static constexpr index_t rows_at_once = 64;

  /// A stored row, found by the run that the row before it was in, where it is there too.
  struct place {
    stored_scores const& scores;
    decltype(adjacent_rows(std::declval<Source const&>(), 0, 0, 0)) run{};
    index_t first = 0, row = 0;  // the run's first row, and the row within it

    Key const* key_of(index_t stored) {
      if (stored < first || stored >= first + run.count) {
        run = adjacent_rows(scores.source_, scores.sequence_, scores.head_, stored);
        first = stored;
      }
      row = stored - first;
      return run.key + row * run.key_stride;
    }
    void prefetch(index_t stored) {
      char const* const from = reinterpret_cast<char const*>(key_of(stored));
      for (index_t byte = 0; byte < scores.elements_ * static_cast<index_t>(sizeof(Key)); byte += cache_line)
        __builtin_prefetch(from + byte);
    }
  };

  void pack(float const* channel_scale) {
    if (ready_ && channel_scale == channel_scale_) return;
    ready_ = true;
    channel_scale_ = channel_scale;
    index_t const dimension = source_.key_dimension();
    for (index_t i = 0; i < queries_; ++i) {
      A const* const from = query_(i);
      for (index_t c = 0; c < dimension; ++c)
        scaled_[c] = from[c] * (channel_scale ? static_cast<A>(channel_scale[c]) : A(1));
      packed_.set(i, scaled_);
    }
  }

  Source const& source_;
  index_t sequence_, head_, queries_;
  Query const& query_;
  index_t elements_, padded_;  // of a row, in storage elements
  row_queries<Key> packed_;
  A* scaled_;
  Key* copy_;
  float* scale_;
  float const* channel_scale_ = nullptr;
  bool ready_ = false;
};

/// Scores a range of rows: stored_scores::score_rows.
template <KeyValueSource Source, class Query>
void score_stored_keys(Source const& source, index_t sequence, index_t head, index_t first, index_t last,
                       index_t queries, Query const& query, float* to, index_t to_stride, bool largest) {
  scratch memory;
  stored_scores<Source, Query>(memory, source, sequence, head, queries, query)
      .score_rows(first, last, to, to_stride, largest);
}

}  // namespace attend::inline ATTEND_TARGET::detail
