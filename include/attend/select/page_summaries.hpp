// SPDX-License-Identifier: BSD-3-Clause
// Summaries of the pages of a store's keys, one row of numbers for each page, kept up to date as tokens are appended.
//
//   page p of a sequence has the tokens [p * page_tokens, (p + 1) * page_tokens); the last page may have fewer
//   summaries  [sequence, key-value head, page, numbers of the kind], elements of S, padded to whole vectors
//
// Kinds are those of page_kinds.hpp. The open state of a page that is not full is stored in the accumulation type
// beside its summary, so each token is read once, however many are appended at a time. All summaries of a head are in
// one piece, for the products that score them.
//
// Memory: a row for each page, and the open state of one page for each head. Bounds must hold exactly: their S is the
// type of the keys or the accumulation type.
#pragma once

#include "../cache/append.hpp"
#include "../cache/quantize.hpp"
#include "../cache/row_memory.hpp"
#include "../core/executor.hpp"
#include "page_kinds.hpp"
#include "row_scores.hpp"

namespace attend::inline ATTEND_TARGET {

namespace selection {

template <class Kind, Element S>
class page_summaries {
 public:
  using A = accumulation_t<S>;
  using element = S;

  /// Whether the caller writes the summaries.
  static constexpr bool reads_no_keys = requires { requires Kind::reads_no_keys; };

  /// Allocates memory for sequences of up to `capacity` tokens. Throws argument_error for extents that are negative or
  /// beyond the token limit, for pages without tokens, and where the kind does not fit.
  page_summaries(cache_shape const& shape, index_t capacity, index_t page_tokens, Kind kind = {})
      : kind_(std::move(kind)),
        shape_(shape),
        capacity_(checked(capacity)),
        page_tokens_(checked_page(page_tokens)),
        max_pages_(extend::divide_up(capacity, page_tokens)),
        numbers_(kind_.summary_numbers(checked(shape.key_dimension))),
        stride_(extend::round_up(numbers_, simd::group_elements<S>)),
        rows_(name, std::array{shape.sequences, shape.key_value_heads, max_pages_, stride_}),
        open_(name, std::array{shape.sequences, shape.key_value_heads, kind_.open_numbers(shape.key_dimension)}),
        sizes_(name, std::array{shape.sequences}) {
    if constexpr (requires { kind_.check(shape, page_tokens); }) kind_.check(shape, page_tokens);
    std::fill_n(rows_.data(), rows_.size(), S(0));
    std::fill_n(sizes_.data(), sizes_.size(), 0);
  }

  Kind const& kind() const { return kind_; }
  cache_shape const& shape() const { return shape_; }
  index_t page_tokens() const { return page_tokens_; }
  index_t capacity() const { return capacity_; }
  index_t size(index_t sequence) const { return sizes_[sequence]; }
  index_t pages(index_t sequence) const { return extend::divide_up(sizes_[sequence], page_tokens_); }
  index_t numbers() const { return numbers_; }
  /// The distance, in elements, from one summary to the next.
  index_t stride() const { return stride_; }
  S const* row(index_t sequence, index_t head, index_t page) const {
    return rows_.data() + ((sequence * shape_.key_value_heads + head) * max_pages_ + page) * stride_;
  }

  /// The size of the memory of the summaries in bytes.
  index_t bytes() const { return rows_.bytes() + open_.bytes() + sizes_.bytes(); }
  /// The number of bytes that scoring all pages of a sequence reads.
  index_t bytes_scored(index_t sequence) const {
    return shape_.key_value_heads * pages(sequence) * stride_ * static_cast<index_t>(sizeof(S));
  }

  /// Adds the tokens that were appended to the source since the last update. Throws argument_error, before anything is
  /// written, where the source has another shape, has dropped tokens, has fewer tokens than at the last update, or more
  /// than `capacity`.
  template <KeyValueSource Source, Executor E = serial>
  void update(Source const& source, E&& executor = {}) {
    extend::arithmetic_mode const arithmetic;
    using Key = typename Source::key_element;
    static_assert(std::same_as<extend::storage_accumulation_t<Key>, A>,
                  "attend: summaries and keys must have one accumulation type");
    static_assert(!std::same_as<Kind, key_bounds> || std::same_as<S, Key> || std::same_as<S, A>,
                  "attend: bounds are kept in the keys' type, or in the accumulation type");
    check(source);
    detail::check_executor(executor);
    if constexpr (!reads_no_keys) add_all(source, executor);
    for (index_t s = 0; s < shape_.sequences; ++s) sizes_[s] = source.size(s);
  }

  /// Removes the tokens of a sequence from `size` on. The source must still have the tokens before `size`, since the
  /// page in which the sequence then ends is read again. Throws argument_error, before anything is removed, where there
  /// are fewer than `size` tokens, or where the source has another shape.
  template <KeyValueSource Source>
  void truncate(Source const& source, index_t sequence, index_t size) {
    extend::arithmetic_mode const arithmetic;
    detail::check_sequence(sequence, shape_.sequences);
    if (size < 0 || size > sizes_[sequence])
      extend::fail("size", "expected from 0 to ", sizes_[sequence], " (the tokens), got ", size);
    check_shape(source);
    if (source.size(sequence) < size)
      extend::fail("source", "expected at least ", size, " tokens (those that are kept), got ", source.size(sequence));
    check_stored(source, sequence);
    sizes_[sequence] = size / page_tokens_ * page_tokens_;
    if constexpr (!reads_no_keys)
      for (index_t head = 0; head < shape_.key_value_heads; ++head) add_tokens(source, sequence, head, size);
    sizes_[sequence] = size;
  }

  /// Scores the pages [first, last) of a head; `to`, `to_stride` and `largest` are those of scored_rows.
  void score(index_t sequence, index_t head, index_t first, index_t last, detail::row_queries<S> const& queries,
             float* to, index_t to_stride, bool largest) const {
    if (first < last)
      queries.score({row(sequence, head, first), stride_, last - first, nullptr, 0, to, to_stride, largest});
  }

  /// Replaces the summary of a page by `summary`, which has numbers() numbers.
  void write(page_place const& at, A const* summary) {
    extend::arithmetic_mode const arithmetic;
    detail::convert_row(summary, numbers_, const_cast<S*>(row(at.sequence, at.head, at.page)));
  }

 private:
  static constexpr char const* name = "page_summaries";

  static index_t checked(index_t extent) {
    if (extent > extend::token_limit)
      extend::fail(name, "expected extents of at most ", extend::token_limit, ", got ", extent);
    return extent;
  }
  static index_t checked_page(index_t tokens) {
    if (tokens < 1) extend::fail(name, "expected pages of at least 1 token, got ", tokens);
    return checked(tokens);
  }

  template <class Source, class E>
  void add_all(Source const& source, E& executor) {
    index_t const heads = shape_.key_value_heads;
    double tokens = 0;
    for (index_t s = 0; s < shape_.sequences; ++s) tokens += static_cast<double>(source.size(s) - sizes_[s]);
    detail::loop_cost const cost{4 * tokens * static_cast<double>(heads * shape_.key_dimension)};
    detail::parallel_for(executor, shape_.sequences * heads, cost, [&](index_t task) {
      add_tokens(source, task / heads, task % heads, source.size(task / heads));
    });
  }

  template <class Source>
  void check_shape(Source const& source) const {
    detail::check_extent("source", "sequences", source.sequences(), shape_.sequences, "the summaries");
    if constexpr (!reads_no_keys)
      detail::check_extent("source", "heads", source.key_value_heads(), shape_.key_value_heads, "the summaries");
    detail::check_extent("source", "head dimension", source.key_dimension(), shape_.key_dimension, "the summaries");
    detail::check_readable(source);
  }

  /// Checks that the source has dropped no token, so that the row of each token is at its position.
  template <class Source>
  void check_stored(Source const& source, index_t sequence) const {
    for (index_t head = 0; head < source.key_value_heads(); ++head)
      detail::check_extent("source", "stored tokens", source.stored(sequence, head), source.size(sequence), "appended");
  }

  template <class Source>
  void check(Source const& source) const {
    check_shape(source);
    for (index_t s = 0; s < shape_.sequences; ++s) {
      index_t const size = source.size(s);
      if (size < sizes_[s] || size > capacity_)
        extend::fail("source", "expected from ", sizes_[s], " (what was summarized) to ", capacity_,
                     " tokens (the capacity), got ", size);
      check_stored(source, s);
    }
  }

  /// Adds the tokens of a head from the sequence's size up to `last`.
  template <class Source>
  void add_tokens(Source const& source, index_t sequence, index_t head, index_t last) {
    index_t const dimension = shape_.key_dimension;
    extend::scratch memory;
    A* const key = memory.allocate<A>(dimension);
    A* const summary = memory.allocate<A>(numbers_);
    A* const open = open_.data() + (sequence * shape_.key_value_heads + head) * kind_.open_numbers(dimension);
    for (index_t token = sizes_[sequence]; token < last;) {
      auto const run = source.rows(sequence, head, token);
      index_t const count = std::min(run.count, last - token);
      for (index_t i = 0; i < count; ++i, ++token) {
        index_t const page = token / page_tokens_, in_page = token % page_tokens_;
        if (in_page == 0) kind_.begin(open, dimension);
        detail::read_key(run, i, dimension, key);
        kind_.add(open, key, dimension);
        if (in_page + 1 < page_tokens_ && token + 1 < last) continue;
        page_place const at{sequence, head, page};
        kind_.finish(open, in_page + 1, dimension, at, summary);
        write(at, summary);
      }
    }
  }

  Kind kind_;
  cache_shape shape_;
  index_t capacity_, page_tokens_, max_pages_, numbers_, stride_;
  detail::buffer<S> rows_;
  detail::buffer<A> open_;
  detail::buffer<index_t> sizes_;
};

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
