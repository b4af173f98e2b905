// SPDX-License-Identifier: BSD-3-Clause
// Lists of rows in pages of one pool: which page of the pool each list has next, and which pages are free.
//
//   pool          page p holds the slots [p * page_rows, (p + 1) * page_rows)
//   table         [list, page of the list] -> page of the pool
//   references    [page] -> the number of lists that have the page; a page without any is free
//
// A store says what a list is: a sequence (paged_cache), or a sequence's head (evicting_cache); and how many rows each
// has. Consecutive pages of the pool are one run of slots, at most 8 of them, so that finding a run takes constant
// time.
//
// Lists may share pages. Before one of them changes a page, separate() gives it one of its own; page_copies counts the
// free pages that this takes.
//
// Memory: 4 bytes for each page of each list, and 8 for each page of the pool.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "../core/scratch.hpp"
#include "row_store.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// The pool of a store: the number of its pages, and the number of tokens of a page.
struct paging {
  index_t pages = 0;
  index_t page_tokens = 64;
  /// The largest number of tokens of one sequence, of which an evicting_cache counts those that a head keeps; 0 means
  /// as many as the pool has slots.
  index_t max_tokens = 0;
};

}  // namespace caches

namespace detail {

/// Pages [first, last) of a list.
struct page_range {
  index_t list, first, last;
};

class page_lists;
inline index_t copies_of(page_lists const& lists, std::span<page_range const> writes);

class page_lists {
 public:
  using page_number = std::int32_t;

  /// Allocates the table and makes all pages free. Throws argument_error, which names `store`, where a number is out of
  /// range.
  page_lists(char const* store, index_t lists, paging const& pool)
      : page_rows_(pool.page_tokens),
        max_rows_(pool.max_tokens > 0 ? std::min(pool.max_tokens, slots(store, pool)) : slots(store, pool)),
        free_count_(pool.pages),
        table_(store, std::array{lists, pages_of(max_rows_)}),
        free_(store, std::array{pool.pages}),
        references_(store, std::array{pool.pages}) {
    std::fill_n(references_.data(), references_.size(), 0);
    // Free pages are taken from the end of this list: so page 0 is the first to be taken.
    for (index_t i = 0; i < pool.pages; ++i) free_[i] = static_cast<page_number>(pool.pages - 1 - i);
  }

  /// The slots of a pool.
  static index_t slots(char const* store, paging const& pool) {
    index_t const max_pages = std::numeric_limits<page_number>::max();
    if (pool.pages < 0 || pool.pages > max_pages)
      fail(store, "expected from 0 to ", max_pages, " pages, got ", pool.pages);
    if (pool.page_tokens < 1 || pool.page_tokens >= token_limit)
      fail(store, "expected pages of 1 to ", token_limit - 1, " tokens, got ", pool.page_tokens);
    if (pool.max_tokens < 0) fail(store, "expected a limit of at least 0 tokens, got ", pool.max_tokens);
    return pool.pages * pool.page_tokens;
  }

  index_t pages() const { return free_.size(); }
  index_t free_pages() const { return free_count_; }
  index_t page_rows() const { return page_rows_; }
  index_t max_rows() const { return max_rows_; }
  index_t bytes() const { return table_.bytes() + free_.bytes() + references_.bytes(); }
  index_t pages_of(index_t rows) const { return divide_up(rows, page_rows_); }

  page_number page(index_t list, index_t number) const { return table_[list * pages_of(max_rows_) + number]; }
  /// How many lists have this page of a list.
  index_t references(index_t list, index_t number) const { return references_[page(list, number)]; }

  /// The slots of consecutive pages from a row on of a list of `rows` rows. They may reach past the last row.
  slot_run run(index_t list, index_t row, index_t rows) const {
    index_t const number = row / page_rows_, offset = row % page_rows_;
    index_t const last = std::min(number + max_joined, pages_of(rows));
    index_t const first = page(list, number);
    index_t joined = 1;
    while (number + joined < last && page(list, number + joined) == first + joined) ++joined;
    return {0, first * page_rows_ + offset, joined * page_rows_ - offset};
  }

  /// Gives a list pages for `rows` rows, or takes back those that it then does not need.
  void resize(index_t list, index_t old_rows, index_t rows) {
    for (index_t number = pages_of(old_rows); number < pages_of(rows); ++number) entry(list, number) = allocate();
    // The last pages are released first: when they are taken again, consecutive pages are consecutive again.
    for (index_t number = pages_of(old_rows); number-- > pages_of(rows);) release(page(list, number));
  }
  /// Makes a list without rows share the pages of the first `rows` rows of another list.
  void share(index_t from, index_t to, index_t rows) {
    for (index_t number = 0; number < pages_of(rows); ++number) {
      entry(to, number) = page(from, number);
      ++references_[entry(to, number)];
      ++shared_;
    }
  }
  /// Whether two lists have a page in common.
  bool any_shared() const { return shared_ > 0; }
  /// Replaces those pages [first, last) of a list by free ones that others have too, and calls copy(old, own) for each.
  template <class Copy>
  void separate(index_t list, index_t first, index_t last, Copy const& copy) {
    if (!any_shared()) return;
    for (index_t number = first; number < last; ++number)
      if (references(list, number) > 1) {
        index_t const old = replace(list, number);
        copy(old, index_t{page(list, number)});
      }
  }
  /// The same for several lists. Throws argument_error, which names `argument`, before anything changes, where there
  /// are too few free pages.
  template <class Copy>
  void separate(char const* argument, std::span<page_range const> writes, Copy const& copy) {
    index_t const needed = copies_of(*this, writes);
    if (needed > free_count_)
      fail(argument, "expected ", needed, " free pages, to copy shared ones that would be written to, got ",
           free_count_);
    for (page_range const& range : writes) separate(range.list, range.first, range.last, copy);
  }
  /// Replaces a page of a list by a free one, and returns the old page.
  page_number replace(index_t list, index_t number) {
    page_number const old = page(list, number);
    entry(list, number) = allocate();
    release(old);
    return old;
  }

 private:
  static constexpr index_t max_joined = 8;

  page_number& entry(index_t list, index_t number) { return table_[list * pages_of(max_rows_) + number]; }

  page_number allocate() {
    page_number const taken = free_[--free_count_];
    references_[taken] = 1;
    return taken;
  }
  void release(page_number page) {
    if (--references_[page] == 0)
      free_[free_count_++] = page;
    else
      --shared_;
  }

  index_t page_rows_, max_rows_, free_count_;
  index_t shared_ = 0;  // how many more references there are than pages that have some
  buffer<page_number> table_, free_, references_;
};

/// Counts the free pages that it takes to give several lists pages of their own, one after the other: the last list
/// that has a page keeps it.
class page_copies {
 public:
  page_copies(page_lists const& lists, scratch& memory)
      : lists_(lists), separated_(lists.any_shared() ? memory.allocate<index_t>(lists.pages()) : nullptr) {
    if (separated_) std::fill_n(separated_, lists.pages(), 0);
  }
  /// Those that pages [first, last) of the next list take.
  index_t of(index_t list, index_t first, index_t last) {
    index_t count = 0;
    for (index_t number = first; separated_ && number < last; ++number)
      count += ++separated_[lists_.page(list, number)] < lists_.references(list, number);
    return count;
  }

 private:
  page_lists const& lists_;
  index_t* separated_;  // of each page, the lists that have had their own in its place
};

inline index_t copies_of(page_lists const& lists, std::span<page_range const> writes) {
  scratch memory;
  page_copies copies(lists, memory);
  index_t needed = 0;
  for (page_range const& range : writes) needed += copies.of(range.list, range.first, range.last);
  return needed;
}

}  // namespace detail

}  // namespace attend::inline ATTEND_TARGET
