// SPDX-License-Identifier: BSD-3-Clause
// Keys and values in pages of a few tokens. All sequences take pages from one pool as they grow, and may share pages.
//
//   pool          page p holds the slots [p * page_tokens, (p + 1) * page_tokens) of every head
//   block table   [sequence, page of the sequence] -> page of the pool
//   references    [page] -> the number of sequences that have the page in their tables; a page without any is free
//
// A fork shares all pages of a sequence, and so do forks of forks. When a sequence appends to a shared page, it first
// copies the page (copy on write): only the last page of a sequence can be copied, and only if it is not full. Full
// pages stay shared.
//
// Consecutive pages of the pool are read as one run: a sequence that was filled at once is read like a contiguous one.
// At most 8 pages are joined, so that finding a run takes constant time.
//
// Memory: the pool, and 4 bytes for each page of each block table.
//
// Woosuk Kwon et al.: Efficient Memory Management for Large Language Model Serving with PagedAttention, 2023.
#pragma once

#include <cstdint>

#include "row_store.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// The pool of a paged_cache: the number of its pages, and the number of tokens of a page.
struct paging {
  index_t pages = 0;
  index_t page_tokens = 64;
  /// The largest number of tokens of one sequence; 0 means as many as the pool has slots.
  index_t max_tokens = 0;
};

}  // namespace caches

/// Keys and values in pages of one pool, of any element type.
///
///     paged_cache<float> pages(shape, {.pages = 4096, .page_tokens = 16});
///     pages.fork(0, 1);  // sequence 1 begins with the tokens of sequence 0
template <extend::StorageElement Key, extend::StorageElement Value = Key>
class paged_cache : public detail::row_store<paged_cache<Key, Value>, Key, Value> {
  using base = detail::row_store<paged_cache<Key, Value>, Key, Value>;

 public:
  /// Allocates all memory of the cache. `channel_scales` [head, key dimension] are for quantized keys; by default there
  /// are none. Throws argument_error for a negative extent, for pages without tokens, and where the product does not
  /// fit in memory.
  paged_cache(caches::cache_shape const& shape, caches::paging const& pool,
              tensor_view<float const, 2> channel_scales = {})
      : base(name, shape, 1, slots(pool), channel_scales),
        page_tokens_(pool.page_tokens),
        free_count_(pool.pages),
        max_tokens_(pool.max_tokens > 0 ? std::min(pool.max_tokens, slots(pool)) : slots(pool)),
        table_(name, std::array{shape.sequences, pages_of(max_tokens_)}),
        sizes_(name, std::array{shape.sequences}),
        free_(name, std::array{pool.pages}),
        references_(name, std::array{pool.pages}) {
    std::fill_n(sizes_.data(), sizes_.size(), 0);
    std::fill_n(references_.data(), references_.size(), 0);
    // Free pages are taken from the end of this list: so page 0 is the first to be taken.
    for (index_t i = 0; i < pool.pages; ++i) free_[i] = static_cast<page_number>(pool.pages - 1 - i);
  }

  index_t size(index_t sequence) const { return sizes_[sequence]; }
  index_t stored(index_t sequence, index_t) const { return sizes_[sequence]; }
  index_t page_tokens() const { return page_tokens_; }
  index_t pages() const { return free_.size(); }
  index_t free_pages() const { return free_count_; }

  /// The size of the store's memory in bytes.
  index_t bytes() const {
    return this->memory_.bytes() + table_.bytes() + sizes_.bytes() + free_.bytes() + references_.bytes();
  }

  /// Removes the tokens of a sequence from `size` on. Pages that no sequence has any more become free. Throws
  /// argument_error where it has fewer tokens.
  void truncate(index_t sequence, index_t size) {
    this->check_size(sequence, size);
    // The last pages are released first: when they are taken again, consecutive pages are consecutive again.
    for (index_t page = pages_of(sizes_[sequence]); page-- > pages_of(size);) release(entry(sequence, page));
    sizes_[sequence] = size;
  }

  /// Makes the empty sequence `to` begin with the first `tokens` tokens of `from`, by default all of them, whose pages
  /// both then share. Throws argument_error if `to` has tokens.
  void fork(index_t from, index_t to, index_t tokens) {
    detail::check_sequence(from, this->sequences(), "from");
    detail::check_sequence(to, this->sequences(), "to");
    this->check_size(from, tokens);
    if (sizes_[to] != 0) extend::fail("to", "expected an empty sequence, got one of ", sizes_[to], " tokens");
    for (index_t page = 0; page < pages_of(tokens); ++page) {
      entry(to, page) = entry(from, page);
      ++references_[entry(to, page)];
    }
    sizes_[to] = tokens;
  }
  void fork(index_t from, index_t to) {
    detail::check_sequence(from, this->sequences(), "from");
    fork(from, to, sizes_[from]);
  }

 private:
  friend base;
  friend detail::appending<paged_cache>;
  using page_number = std::int32_t;
  static constexpr char const* name = "paged_cache";
  static constexpr index_t max_joined = 8;

  static index_t slots(caches::paging const& pool) {
    index_t const max_pages = std::numeric_limits<page_number>::max();
    if (pool.pages < 0 || pool.pages > max_pages)
      extend::fail(name, "expected from 0 to ", max_pages, " pages, got ", pool.pages);
    if (pool.page_tokens < 1 || pool.page_tokens >= extend::token_limit)
      extend::fail(name, "expected pages of 1 to ", extend::token_limit - 1, " tokens, got ", pool.page_tokens);
    if (pool.max_tokens < 0) extend::fail(name, "expected a limit of at least 0 tokens, got ", pool.max_tokens);
    return pool.pages * pool.page_tokens;
  }

  /// Throws argument_error where the pool has too few free pages for the new tokens of all sequences, or where a
  /// sequence would have more than the largest number of tokens.
  void check_memory(detail::new_tokens const& asked) const {
    index_t free = free_count_;
    for (index_t i = asked.first; i < asked.last; ++i) {
      index_t const s = asked.sequence(i), count = asked.tokens(i), size = sizes_[s], present = pages_of(size);
      bool const copies = copies_last_page(asked, i);
      index_t const in_pages = (present + free - copies) * page_tokens_ - size;
      index_t const most = std::max<index_t>(0, std::min(in_pages, max_tokens_ - size));
      if (count > most)
        extend::fail(asked.argument, "expected at most ", most, " more tokens (sequence ", s, " has ", size, ", ", free,
                     " of ", pages(), " pages of ", page_tokens_, " tokens are free), got ", count);
      free -= copies + pages_of(size + count) - present;
    }
  }

  void grow(index_t sequence, index_t tokens) {
    index_t const size = sizes_[sequence], present = pages_of(size);
    if (copies_last_page({sequence, sequence + 1, tokens, tokens, name}, sequence)) {
      page_number& last = entry(sequence, present - 1);
      page_number const own = allocate_page();
      this->memory_.copy(0, last * page_tokens_, own * page_tokens_, size % page_tokens_);
      release(last);
      last = own;
    }
    for (index_t page = present; page < pages_of(size + tokens); ++page) entry(sequence, page) = allocate_page();
    sizes_[sequence] = size + tokens;
  }

  /// The page of the next token, if that page already has tokens; else -1.
  page_number open_page(index_t sequence) const {
    index_t const size = sizes_[sequence];
    return size % page_tokens_ == 0 ? -1 : entry(sequence, size / page_tokens_);
  }

  /// Whether sequence i of those asked for must first copy the page of its next token: whether that page is still
  /// shared after the sequences before i that end in it have made copies.
  bool copies_last_page(detail::new_tokens const& asked, index_t i) const {
    page_number const page = open_page(asked.sequence(i));
    if (page < 0 || asked.tokens(i) == 0) return false;
    index_t others = references_[page] - 1;
    for (index_t before = asked.first; others > 0 && before < i; ++before)
      others -= asked.tokens(before) > 0 && open_page(asked.sequence(before)) == page;
    return others > 0;
  }

  index_t pages_of(index_t tokens) const { return extend::divide_up(tokens, page_tokens_); }
  index_t table_pages() const { return pages_of(max_tokens_); }
  page_number& entry(index_t sequence, index_t page) { return table_[sequence * table_pages() + page]; }
  page_number entry(index_t sequence, index_t page) const { return table_[sequence * table_pages() + page]; }

  page_number allocate_page() {
    page_number const page = free_[--free_count_];
    references_[page] = 1;
    return page;
  }
  void release(page_number page) {
    if (--references_[page] == 0) free_[free_count_++] = page;
  }

  static index_t position_of(index_t, index_t row) { return row; }

  detail::slot_run locate(index_t sequence, index_t position) const {
    index_t const page = position / page_tokens_, offset = position % page_tokens_;
    index_t const last = std::min(page + max_joined, pages_of(sizes_[sequence]));
    index_t const first = entry(sequence, page);
    index_t joined = 1;
    while (page + joined < last && entry(sequence, page + joined) == first + joined) ++joined;
    return {0, first * page_tokens_ + offset, joined * page_tokens_ - offset};
  }

  index_t page_tokens_;
  index_t free_count_;
  index_t max_tokens_;
  detail::buffer<page_number> table_;
  detail::buffer<index_t> sizes_;
  detail::buffer<page_number> free_;
  detail::buffer<page_number> references_;
};

}  // namespace attend::inline ATTEND_TARGET
