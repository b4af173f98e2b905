// SPDX-License-Identifier: BSD-3-Clause
// The tokens that heads attend to: for each sequence and head an ascending list of stored rows, in memory that is
// allocated once for all steps.
//
//   list(sequence, head) = rows of a KeyValueSource, ascending, none twice; 4 bytes each
//
// A sequence has one list for each query head, one for each key-value head, whose query heads then read the same rows,
// or one for all heads. Lists are written run by run, in ascending order. Runs may overlap, as pages may overlap the
// sinks or the local window, which are in every list.
//
// Memory: 4 bytes for each row that a list may have, and a size for each list.
#pragma once

#include <cstdint>
#include <numeric>
#include <span>

#include "../core/buffer.hpp"
#include "../core/order.hpp"

namespace attend::inline ATTEND_TARGET {

namespace selection {

/// The number of tokens of a list, and the tokens that are in every list.
///
///     selection_budget const budget{.tokens = 1024, .first = 4, .last = 64};
struct selection_budget {
  /// The number of tokens of a list, including the first and last ones; 0 means `fraction` times the length of the
  /// sequence, rounded up.
  index_t tokens = 0;
  double fraction = 0.05;
  /// The number of tokens of each list of a sequence, where heads differ; by default it is empty, and all lists have
  /// `tokens`. The memory must outlive the budget.
  std::span<index_t const> each = {};
  /// The numbers of first and of last tokens of a sequence that are in every list: sinks, and a local window.
  index_t first = 0;
  index_t last = 0;

  /// Throws argument_error, which names `argument`, where a number is negative, where `fraction` is not from 0 to 1, or
  /// where `each` does not have one number for each list.
  void check(char const* argument, index_t heads) const {
    if (tokens < 0) extend::fail(argument, "expected at least 0 tokens, got ", tokens);
    if (!(fraction >= 0 && fraction <= 1)) extend::fail(argument, "expected a fraction from 0 to 1, got ", fraction);
    if (first < 0 || last < 0)
      extend::fail(argument, "expected at least 0 tokens that are taken in any case, got ", first, " and ", last);
    if (!each.empty() && static_cast<index_t>(each.size()) != heads)
      extend::fail(argument, "expected tokens for each of ", heads, " lists, got ", each.size());
    for (index_t one : each)
      if (one < 0) extend::fail(argument, "expected at least 0 tokens, got ", one);
  }

  /// The number of tokens of a list of a sequence of `size` tokens: at least the first and last ones, at most all.
  index_t of(index_t head, index_t size) const {
    index_t const wanted = !each.empty() ? each[static_cast<std::size_t>(head)]
                           : tokens > 0  ? tokens
                                         : static_cast<index_t>(std::ceil(fraction * static_cast<double>(size)));
    return std::min(std::max(wanted, std::min(first, size) + std::min(last, size)), size);
  }
};

/// An ascending list of tokens for each sequence and head.
///
///     token_lists lists(8, 8, 1024);  // sequences, heads, tokens of a list
///     lists.add(0, 3, 16, 32);        // tokens 16 to 31 to the list of sequence 0 and head 3
class token_lists {
 public:
  token_lists() = default;

  /// Allocates empty lists, each of which may have up to `capacity` tokens. Throws argument_error for a negative
  /// extent, more than token_limit tokens, or where the product does not fit in memory.
  token_lists(index_t sequences, index_t heads, index_t capacity)
      : sequences_(sequences),
        heads_(heads),
        capacity_(checked(capacity)),
        rows_("token_lists", std::array{sequences, heads, capacity}),
        sizes_("token_lists", std::array{sequences, heads}) {
    std::fill_n(sizes_.data(), sizes_.size(), 0);
  }

  index_t sequences() const { return sequences_; }
  index_t heads() const { return heads_; }
  index_t capacity() const { return capacity_; }
  index_t size(index_t sequence, index_t head) const { return sizes_[sequence * heads_ + head]; }
  std::span<std::int32_t const> operator()(index_t sequence, index_t head) const {
    return {rows_.data() + (sequence * heads_ + head) * capacity_, static_cast<std::size_t>(size(sequence, head))};
  }

  /// The size of the lists' memory in bytes.
  index_t bytes() const { return rows_.bytes() + sizes_.bytes(); }

  void clear(index_t sequence, index_t head) { sizes_[sequence * heads_ + head] = 0; }

  /// Appends those rows of [first, last) to a list that are behind its last row. Throws argument_error where they do
  /// not fit, or there is no such list.
  void add(index_t sequence, index_t head, index_t first, index_t last) {
    if (sequence < 0 || sequence >= sequences_ || head < 0 || head >= heads_)
      extend::fail("token_lists", "expected a list of ", sequences_, " sequences and ", heads_, " heads, got sequence ",
                   sequence, " and head ", head);
    if (first < 0) extend::fail("token_lists", "expected rows from 0 on, got ", first);
    index_t& size = sizes_[sequence * heads_ + head];
    std::int32_t* const list = rows_.data() + (sequence * heads_ + head) * capacity_;
    if (size > 0) first = std::max<index_t>(first, list[size - 1] + 1);
    if (last <= first) return;
    if (last - first > capacity_ - size)
      extend::fail("token_lists", "expected at most ", capacity_ - size, " more rows, got ", last - first);
    std::iota(list + size, list + size + (last - first), static_cast<std::int32_t>(first));
    size += last - first;
  }

  /// Removes a row from a list, if the list has it.
  void erase(index_t sequence, index_t head, index_t row) {
    index_t& size = sizes_[sequence * heads_ + head];
    std::int32_t* const list = rows_.data() + (sequence * heads_ + head) * capacity_;
    std::int32_t* const at = std::lower_bound(list, list + size, static_cast<std::int32_t>(row), detail::ascending{});
    if (at == list + size || *at != row) return;
    std::copy(at + 1, list + size, at);
    --size;
  }

  /// Replaces the contents of a list: by the `first` first tokens of a sequence of `size` tokens, the tokens of
  /// `pages`, which ascend, and the `last` last tokens. Page p has `page_tokens` tokens, from p * page_tokens on.
  void assign(index_t sequence, index_t head, index_t size, index_t first, std::span<std::int32_t const> pages,
              index_t page_tokens, index_t last) {
    clear(sequence, head);
    index_t const end = std::max<index_t>(size - last, 0);
    add(sequence, head, 0, std::min(first, size));
    for (index_t page : pages) add(sequence, head, page * page_tokens, std::min((page + 1) * page_tokens, end));
    add(sequence, head, end, size);
  }

 private:
  static index_t checked(index_t capacity) {
    if (capacity > extend::token_limit)
      extend::fail("token_lists", "expected at most ", extend::token_limit, " rows, got ", capacity);
    return capacity;
  }

  index_t sequences_ = 0, heads_ = 0, capacity_ = 0;
  detail::buffer<std::int32_t> rows_;
  detail::buffer<index_t> sizes_;
};

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
