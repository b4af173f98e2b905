// SPDX-License-Identifier: BSD-3-Clause
// Some sequences of a store as a store of their own, such as the sequences that are in the batch of this step.
//
//   sequence i of sequences_of(store, list)  =  sequence list[i] of the store
//
// The list may have any order. The output for a sequence has the same bits as in a call for all sequences.
//
//   std::vector<int> const active{3, 0};
//   cached_attention(sequences_of(cache, active), q, k, v, o);          one more token of sequences 3 and 0
//   softmax_attention(q, sequences_of(cache, active), o, causal{});     q and o [2, head, token, dimension]
//
// What is only read may be named several times. Tokens are appended where the store takes them and is no constant, and
// then each sequence is named once: all of the list get their tokens, or none.
//
// Cost: one read of the list for each run of rows, and for each append one pass over the store's sequences.
#pragma once

#include "../core/index_list.hpp"
#include "append.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {
template <class Source>
  requires KeyValueSource<std::remove_const_t<Source>>
class sequences_of;
}

namespace detail {

template <class Source>
concept TakesTokens = requires(Source& source, new_tokens const& asked, index_t i) {
  source.check_room(asked);
  source.make_room(i, i);
};
struct takes_no_tokens {};
template <class Source>
using appending_where_source_is =
    std::conditional_t<TakesTokens<Source>, appending<caches::sequences_of<Source>>, takes_no_tokens>;

}  // namespace detail

namespace caches {

/// Some sequences of a store. The class holds views of the store and of a list of 32- or 64-bit integers, which must
/// outlive it. Members that append tokens are those of the store.
///
///     decode_attention(q, sequences_of(cache, ids), o);  // query s belongs to sequence ids[s] of the cache
template <class Source>
  requires KeyValueSource<std::remove_const_t<Source>>
class sequences_of : public detail::appending_where_source_is<Source> {
 public:
  using key_element = typename Source::key_element;
  using value_element = typename Source::value_element;

  /// Throws argument_error where the list names a sequence that the store does not have.
  sequences_of(Source& source, index_list list) : source_(source), list_(list) {
    for (index_t i = 0; i < list.size(); ++i)
      if (list[i] < 0 || list[i] >= source.sequences())
        extend::fail("sequences_of", "expected from 0 to ", source.sequences() - 1, ", got ", list[i], " at ", i);
  }

  index_t sequences() const { return list_.size(); }
  index_t key_value_heads() const { return source_.key_value_heads(); }
  index_t key_heads() const { return detail::key_heads_of(source_); }
  index_t value_heads() const { return detail::value_heads_of(source_); }
  index_t key_dimension() const { return source_.key_dimension(); }
  index_t value_dimension() const { return source_.value_dimension(); }
  index_t size(index_t sequence) const { return source_.size(list_[sequence]); }
  index_t stored(index_t sequence, index_t head) const { return source_.stored(list_[sequence], head); }
  key_value_rows<key_element, value_element> rows(index_t sequence, index_t head, index_t first) const {
    return source_.rows(list_[sequence], head, first);
  }
  key_value_rows<key_element, value_element> adjacent_rows(index_t sequence, index_t head, index_t first) const {
    return detail::adjacent_rows(source_, list_[sequence], head, first);
  }

  /// The mask of the store, and the most tokens that it takes at a time, if the store drops tokens.
  auto mask() const
    requires requires(Source const& source) { source.mask(); }
  {
    return source_.mask();
  }
  index_t chunk() const
    requires requires(Source const& source) { source.chunk(); }
  {
    return source_.chunk();
  }

  /// Removes the tokens of a sequence from `size` on. Throws argument_error where the store would.
  void truncate(index_t sequence, index_t size)
    requires detail::TakesTokens<Source>
  {
    detail::check_sequence(sequence, sequences());
    source_.truncate(list_[sequence], size);
  }

  /// Throws argument_error where the store's rows cannot be read.
  void check_readable() const { detail::check_readable(source_); }
  /// Throws argument_error where a written tensor shares memory with the store, if the store offers such a check.
  void check_apart(char const* output, detail::view_layout const& written) const {
    if constexpr (requires { source_.check_apart(output, written); }) source_.check_apart(output, written);
  }

 private:
  friend detail::appending<sequences_of>;

  void check_memory(detail::new_tokens const& asked) const {
    extend::scratch memory;
    index_t* const listed = memory.allocate<index_t>(asked.last);
    bool* const seen = memory.allocate<bool>(source_.sequences());
    std::fill_n(seen, source_.sequences(), false);
    for (index_t i = asked.first; i < asked.last; ++i) {
      listed[i] = list_[asked.sequence(i)];
      if (seen[listed[i]])
        extend::fail("sequences_of", "expected each sequence once, since it takes tokens, got ", listed[i],
                     " again at ", i);
      seen[listed[i]] = true;
    }
    auto in_source = asked;
    in_source.sequences = listed;
    source_.check_room(in_source);
  }
  void grow(index_t sequence, index_t tokens) { source_.make_room(list_[sequence], tokens); }
  template <Element K>
  void write_key_rows(index_t sequence, index_t head, index_t position, tensor_view<K const, 2> const& key) {
    source_.write_keys(list_[sequence], head, position, key);
  }
  template <Element V>
  void write_value_rows(index_t sequence, index_t head, index_t position, tensor_view<V const, 2> const& value) {
    source_.write_values(list_[sequence], head, position, value);
  }

  Source& source_;
  index_list list_;
};

template <class Source, class List>
sequences_of(Source&, List const&) -> sequences_of<Source>;
template <class Source, class List>
sequences_of(Source const&&, List const&) -> sequences_of<Source const>;

}  // namespace caches

}  // namespace attend::inline ATTEND_TARGET
