// SPDX-License-Identifier: BSD-3-Clause
// The selected rows of a store as a store of their own: engines read them in place, with no copy.
//
//   stored row i of (sequence, head) = row lists(sequence, list of head)[i] of the source
//
// Positions are those of the source, or those in the list, for systems that treat the chosen rows as a sequence of
// their own. Where there are more lists than key-value heads (one for each query head, say), this source has as many
// heads as lists, and several of its heads read one head of the source; where there are fewer lists, heads share a
// list. Heads share keys, or values, as those of the source do if they also share a list.
//
// Cost: finding a run takes constant time. Rows that are consecutive in the list and in the source are joined to a run,
// up to a block of the split engine. A decoding step without a mask reads rows from anywhere in full blocks.
#pragma once

#include "../cache/key_value_rows.hpp"
#include "token_lists.hpp"

namespace attend::inline ATTEND_TARGET {

namespace selection {

/// The positions of selected rows: those in the source, or those in the list.
enum class row_positions { of_source, of_list };

/// The rows of a source that are in lists, as a source. The class holds views of the source and the lists, which must
/// outlive it.
///
///     token_lists const lists(8, 8, 1024);  // sequences, heads, tokens of a list
///     decode_attention(q, selected_rows(cache, lists), o);
template <KeyValueSource Source>
class selected_rows {
 public:
  using key_element = typename Source::key_element;
  using value_element = typename Source::value_element;

  /// Views a source and lists of its rows; whenever the rows are read, the source must have all rows of the lists.
  /// Throws argument_error where the numbers of sequences differ, where neither number of heads is a multiple of the
  /// other, or where positions are those in the lists and the lists of a sequence have different lengths.
  selected_rows(Source const& source, token_lists const& lists, row_positions positions = row_positions::of_source)
      : source_(source), lists_(lists), in_list_(positions == row_positions::of_list) {
    if (lists.sequences() != source.sequences())
      extend::fail("lists", "expected sequences ", source.sequences(), " (as the source), got ", lists.sequences());
    index_t const heads = source.key_value_heads(), chosen = lists.heads();
    if (heads > 0 && (chosen == 0 || (chosen % heads != 0 && heads % chosen != 0)))
      extend::fail("lists", "expected a multiple or a divisor of ", heads, " heads (the source), got ", chosen);
    for (index_t s = 0; in_list_ && s < lists.sequences(); ++s)
      for (index_t list = 0; list < chosen; ++list)
        detail::check_extent("lists", "rows", lists.size(s, list), lists.size(s, 0), "the first list's");
    if (heads == 0) return;
    heads_ = std::max(heads, chosen);
    heads_to_source_ = heads_ / heads;
    heads_to_list_ = heads_ / chosen;
  }

  index_t sequences() const { return source_.sequences(); }
  index_t key_value_heads() const { return heads_; }
  index_t key_heads() const { return shared(detail::key_heads_of(source_)); }
  index_t value_heads() const { return shared(detail::value_heads_of(source_)); }
  index_t key_dimension() const { return source_.key_dimension(); }
  index_t value_dimension() const { return source_.value_dimension(); }
  index_t size(index_t sequence) const {
    return in_list_ && lists_.heads() > 0 ? lists_.size(sequence, 0) : source_.size(sequence);
  }
  index_t stored(index_t sequence, index_t head) const { return lists_.size(sequence, head / heads_to_list_); }

  /// Throws argument_error where the source's rows cannot be read, or where a list has a row that the source does not
  /// have.
  void check_readable() const {
    detail::check_readable(source_);
    for (index_t s = 0; s < sequences(); ++s)
      for (index_t head = 0; head < heads_; ++head) {
        auto const list = lists_(s, head / heads_to_list_);
        index_t const there = source_.stored(s, head / heads_to_source_);
        if (!list.empty() && list.back() >= there)
          extend::fail("lists", "expected rows below ", there, " (the source), got ", list.back());
      }
  }
  /// Throws argument_error where a written tensor shares memory with the source, if the source offers such a check.
  void check_apart(char const* output, detail::view_layout const& written) const {
    if constexpr (requires { source_.check_apart(output, written); }) source_.check_apart(output, written);
  }

  /// The entries of a list from `first` on, and the source's run that begins at the first of these rows: for readers of
  /// many rows that do not need positions.
  struct listed {
    key_value_rows<key_element, value_element> run;
    std::span<std::int32_t const> list;
  };
  listed listed_rows(index_t sequence, index_t head, index_t first) const {
    auto const list = lists_(sequence, head / heads_to_list_).subspan(static_cast<std::size_t>(first));
    return {detail::adjacent_rows(source_, sequence, head / heads_to_source_, list[0]), list};
  }

  key_value_rows<key_element, value_element> rows(index_t sequence, index_t head, index_t first) const {
    auto const list = lists_(sequence, head / heads_to_list_).subspan(static_cast<std::size_t>(first));
    auto run = source_.rows(sequence, head / heads_to_source_, list[0]);
    run.count = std::min(run.count, detail::consecutive(list, max_joined));
    if (in_list_) run.position = first;
    return run;
  }

 private:
  static constexpr index_t max_joined = 64;

  /// Of the source's heads of keys or of values, those that one list serves, or else all heads.
  index_t shared(index_t heads) const { return heads > 0 && heads_to_list_ % (heads_ / heads) == 0 ? heads : heads_; }

  Source const& source_;
  token_lists const& lists_;
  bool in_list_;
  index_t heads_ = 0, heads_to_source_ = 1, heads_to_list_ = 1;
};

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
