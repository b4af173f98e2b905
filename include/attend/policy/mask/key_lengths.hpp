// SPDX-License-Identifier: BSD-3-Clause
// Key lengths: in sequence b, the keys from length[b] on are padding that nobody sees. Positions stay those of the
// padded tensors; where a causal mask should count from each sequence's own end, say `padded` (policy/sequence/)
// instead.
#pragma once

#include "../../core/index_list.hpp"
#include "mask.hpp"

namespace attend::inline ATTEND_TARGET::options {

/// Shows every query the keys below a length, in tokens: one length for all sequences, or one for each. A call throws
/// argument_error where a length exceeds the keys, or there is not one for each batch.
///
///     softmax_attention(q, k, v, o, causal{} & key_lengths{lengths});
struct key_lengths {
  using option_kind = option::mask;

  constexpr explicit key_lengths(index_t length) : one_(length) {}
  constexpr explicit key_lengths(index_list lengths) : each_(lengths), per_batch_(true) {}

  void check(problem_shape const& shape) const { check("key_lengths", shape); }
  void check(char const* argument, problem_shape const& shape) const {
    if (per_batch_ && each_.size() != shape.sequences)
      fail(argument, "expected one length for each of ", shape.sequences, " sequences, got ", each_.size());
    for (index_t b = 0; b < (per_batch_ ? each_.size() : 1); ++b)
      if (length(b) < 0 || length(b) > shape.keys)
        fail(argument, "expected lengths from 0 to ", shape.keys, " (the keys), got ", length(b), " at ", b);
  }
  template <class T>
  key_range bounds(tile_rows<T> const& rows) const {
    return {0, std::min(length(rows.sequence), rows.keys)};
  }
  template <class T>
  visibility classify(tile_rows<T> const& rows, key_range range) const {
    index_t const end = length(rows.sequence);
    return range.last <= end ? visibility::all : range.first < end ? visibility::some : visibility::none;
  }
  template <class T>
  ATTEND_INLINE auto visible(mask_place<T> const& place) const {
    return place.key_position < length(place.rows.sequence);
  }

 private:
  constexpr index_t length(index_t batch) const { return per_batch_ ? each_[batch] : one_; }

  index_list each_;
  index_t one_ = 0;
  bool per_batch_ = false;
};

}  // namespace attend::inline ATTEND_TARGET::options
