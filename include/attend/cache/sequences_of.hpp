// SPDX-License-Identifier: BSD-3-Clause
// Some sequences of a store as a store of their own, such as the sequences that are in the batch of this step.
//
//   sequence i of sequences_of(store, list)  =  sequence list[i] of the store
//
// The list may have any order, and name a sequence several times. The result can only be read: tokens are appended to
// the store itself. The output for a sequence has the same bits as in a call for all sequences.
//
//   cache.append(3, k3, v3), cache.append(0, k0, v0);
//   std::vector<int> const active{3, 0};
//   softmax_attention(q, sequences_of(cache, active), o, causal{});      q and o [2, head, token, dimension]
//
// Cost: one read of the list for each run of rows.
#pragma once

#include "../core/index_list.hpp"
#include "key_value_rows.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// Some sequences of a store, each of which may be named several times. The class holds views of the store and of a
/// list of 32- or 64-bit integers, which must outlive it.
///
///     decode_attention(q, sequences_of(cache, ids), o);  // query s belongs to sequence ids[s] of the cache
template <KeyValueSource Source>
class sequences_of {
 public:
  using key_element = typename Source::key_element;
  using value_element = typename Source::value_element;

  /// Throws argument_error where the list names a sequence that the store does not have.
  sequences_of(Source const& source, index_list list) : source_(source), list_(list) {
    for (index_t i = 0; i < list.size(); ++i)
      if (list[i] < 0 || list[i] >= source.sequences())
        extend::fail("sequences_of", "expected from 0 to ", source.sequences() - 1, ", got ", list[i], " at ", i);
  }

  index_t sequences() const { return list_.size(); }
  index_t key_value_heads() const { return source_.key_value_heads(); }
  index_t key_dimension() const { return source_.key_dimension(); }
  index_t value_dimension() const { return source_.value_dimension(); }
  index_t size(index_t sequence) const { return source_.size(list_[sequence]); }
  index_t stored(index_t sequence, index_t head) const { return source_.stored(list_[sequence], head); }
  key_value_rows<key_element, value_element> rows(index_t sequence, index_t head, index_t first) const {
    return source_.rows(list_[sequence], head, first);
  }

  /// The mask of the store, if the store drops tokens.
  auto mask() const
    requires requires(Source const& source) { source.mask(); }
  {
    return source_.mask();
  }

  /// Throws argument_error where the store's rows cannot be read.
  void check_readable() const { detail::check_readable(source_); }
  /// Throws argument_error where a written tensor shares memory with the store, if the store offers such a check.
  void check_apart(char const* output, detail::view_layout const& written) const {
    if constexpr (requires { source_.check_apart(output, written); }) source_.check_apart(output, written);
  }

 private:
  Source const& source_;
  index_list list_;
};

}  // namespace caches

}  // namespace attend::inline ATTEND_TARGET
