// SPDX-License-Identifier: BSD-3-Clause
// Keys and values in pages of a few tokens. All sequences take pages from one pool as they grow, and may share pages.
//
// Page p of the pool holds the slots [p * page_tokens, (p + 1) * page_tokens) of every head (page_lists.hpp).
//
// A fork shares all pages of a sequence, and so do forks of forks. When a sequence appends to a shared page, it first
// copies the page (copy on write): only the last page of a sequence can be copied, and only if it is not full. Full
// pages stay shared.
//
// Consecutive pages of the pool are read as one run: a sequence that was filled at once is read like a contiguous one.
//
// Memory: the pool, and 4 bytes for each page of each sequence.
//
// Woosuk Kwon et al.: Efficient Memory Management for Large Language Model Serving with PagedAttention, 2023.
#pragma once

#include "page_lists.hpp"

namespace attend::inline ATTEND_TARGET {

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
      : base(name, shape, 1, detail::page_lists::slots(name, pool), channel_scales),
        lists_(name, shape.sequences, pool),
        sizes_(name, std::array{shape.sequences}) {
    std::fill_n(sizes_.data(), sizes_.size(), 0);
  }

  index_t size(index_t sequence) const { return sizes_[sequence]; }
  index_t stored(index_t sequence, index_t) const { return sizes_[sequence]; }
  index_t page_tokens() const { return lists_.page_rows(); }
  index_t pages() const { return lists_.pages(); }
  index_t free_pages() const { return lists_.free_pages(); }

  /// The size of the store's memory in bytes.
  index_t bytes() const { return this->memory_.bytes() + lists_.bytes() + sizes_.bytes(); }

  /// Removes the tokens of a sequence from `size` on. Pages that no sequence has any more become free. Throws
  /// argument_error where it has fewer tokens.
  void truncate(index_t sequence, index_t size) {
    this->check_size(sequence, size);
    lists_.resize(sequence, sizes_[sequence], size);
    sizes_[sequence] = size;
  }

  /// Makes the empty sequence `to` begin with the first `tokens` tokens of `from`, by default all of them, whose pages
  /// both then share. Throws argument_error if `to` has tokens.
  void fork(index_t from, index_t to, index_t tokens) {
    detail::check_sequence(from, this->sequences(), "from");
    detail::check_sequence(to, this->sequences(), "to");
    this->check_size(from, tokens);
    if (sizes_[to] != 0) extend::fail("to", "expected an empty sequence, got one of ", sizes_[to], " tokens");
    lists_.share(from, to, tokens);
    sizes_[to] = tokens;
  }
  void fork(index_t from, index_t to) {
    detail::check_sequence(from, this->sequences(), "from");
    fork(from, to, sizes_[from]);
  }

 private:
  friend base;
  friend detail::appending<paged_cache>;
  static constexpr char const* name = "paged_cache";

  /// Throws argument_error where the pool has too few free pages for the new tokens of all sequences, or where a
  /// sequence would have more than the largest number of tokens.
  void check_memory(detail::new_tokens const& asked) const {
    index_t free = lists_.free_pages();
    for (index_t i = asked.first; i < asked.last; ++i) {
      index_t const s = asked.sequence(i), count = asked.tokens(i), size = sizes_[s], present = lists_.pages_of(size);
      bool const copies = copies_last_page(asked, i);
      index_t const in_pages = (present + free - copies) * page_tokens() - size;
      index_t const most = std::max<index_t>(0, std::min(in_pages, lists_.max_rows() - size));
      if (count > most)
        extend::fail(asked.argument, "expected at most ", most, " more tokens (sequence ", s, " has ", size, ", ", free,
                     " of ", pages(), " pages of ", page_tokens(), " tokens are free), got ", count);
      free -= copies + lists_.pages_of(size + count) - present;
    }
  }

  void grow(index_t sequence, index_t tokens) {
    index_t const size = sizes_[sequence];
    if (copies_last_page({sequence, sequence + 1, tokens, tokens, name}, sequence)) {
      index_t const last = size / page_tokens();
      index_t const shared = lists_.replace(sequence, last);
      this->memory_.copy(0, shared * page_tokens(), lists_.page(sequence, last) * page_tokens(), size % page_tokens());
    }
    lists_.resize(sequence, size, size + tokens);
    sizes_[sequence] = size + tokens;
  }

  /// The page of the next token, if that page already has tokens; else -1.
  index_t open_page(index_t sequence) const {
    index_t const size = sizes_[sequence];
    return size % page_tokens() == 0 ? -1 : lists_.page(sequence, size / page_tokens());
  }

  /// Whether sequence i of those asked for must first copy the page of its next token: whether that page is still
  /// shared after the sequences before i that end in it have made copies.
  bool copies_last_page(detail::new_tokens const& asked, index_t i) const {
    index_t const sequence = asked.sequence(i), page = open_page(sequence);
    if (page < 0 || asked.tokens(i) == 0) return false;
    index_t others = lists_.references(sequence, sizes_[sequence] / page_tokens()) - 1;
    for (index_t before = asked.first; others > 0 && before < i; ++before)
      others -= asked.tokens(before) > 0 && open_page(asked.sequence(before)) == page;
    return others > 0;
  }

  static index_t position_of(index_t, index_t row) { return row; }

  detail::slot_run locate(index_t sequence, index_t position) const {
    return lists_.run(sequence, position, sizes_[sequence]);
  }

  detail::page_lists lists_;
  detail::buffer<index_t> sizes_;
};

}  // namespace attend::inline ATTEND_TARGET
