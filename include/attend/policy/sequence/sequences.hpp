// SPDX-License-Identifier: BSD-3-Clause
// Which tokens of the tensors make up a sequence.
//
//   (default)   each batch is a sequence of all tokens
//   padded      each batch is a sequence of its own first tokens: lengths for queries, for keys, or both
//   ragged      one batch holds all sequences, one after the other: offsets for queries and for keys apart
//
// Positions count within a sequence: bottom-right alignment is with its own last key.
#pragma once

#include <optional>

#include "../../core/error.hpp"
#include "../../core/index_list.hpp"
#include "../../core/options.hpp"
#include "../tile.hpp"

namespace attend::inline ATTEND_TARGET {

/// Makes each batch a sequence of its own first tokens. A call throws argument_error where there is not one length for
/// each batch, or a length exceeds the tokens.
///
///     softmax_attention(q, k, v, o, causal{}, padded{lengths});
struct padded {
  using option_kind = option::sequences;
  /// Without query lengths, all queries count.
  std::optional<extend::index_list> query_lengths;
  extend::index_list key_lengths;

  /// The same lengths for queries and keys: self-attention.
  constexpr explicit padded(extend::index_list lengths) : query_lengths(lengths), key_lengths(lengths) {}
  constexpr padded(extend::index_list queries, extend::index_list keys) : query_lengths(queries), key_lengths(keys) {}
};

namespace options {

/// Gives lengths of keys alone, in tokens: all queries count.
///
///     softmax_attention(q, k, v, o, padded_keys(lengths));
constexpr padded padded_keys(index_list key_lengths) {
  padded lengths(key_lengths);
  lengths.query_lengths.reset();
  return lengths;
}

}  // namespace options

/// Makes one batch hold all sequences, one after the other: sequence s has the tokens from offsets[s] to offsets[s + 1]
/// - 1. A call throws argument_error where offsets do not begin at 0, fall, or do not end at the tokens.
///
///     softmax_attention(q, k, v, o, causal{}, ragged{lengths});  // offsets of sequences + 1 entries
struct ragged {
  using option_kind = option::sequences;
  extend::index_list query_offsets, key_offsets;

  /// The same offsets for queries and keys: self-attention.
  constexpr explicit ragged(extend::index_list offsets) : query_offsets(offsets), key_offsets(offsets) {}
  constexpr ragged(extend::index_list queries, extend::index_list keys) : query_offsets(queries), key_offsets(keys) {}
};

namespace detail {

/// Of each batch the queries [first, last), with keys of a length of its own: a part of a call whose keys come with its
/// queries. The queries before were answered by other parts, those after will be.
struct query_part {
  using option_kind = option::sequences;
  index_list key_lengths;
  index_t first, last;
};

/// One sequence: its batch in the tensors, and its tokens there. The first `answered` queries are not asked for.
struct sequence {
  index_t batch, first_query, queries, first_key, keys, answered = 0;

  index_t asked() const { return queries - answered; }
};

/// The sequences of a call.
class sequence_list {
 public:
  explicit sequence_list(problem_shape const& shape, absent) : shape_(shape) {}

  sequence_list(problem_shape const& shape, padded const& lengths)
      : shape_(shape), query_(lengths.query_lengths.value_or(index_list())), key_(lengths.key_lengths) {
    if (lengths.query_lengths) check_lengths("padded (queries)", query_, shape.queries);
    check_lengths("padded (keys)", key_, shape.keys);
  }

  sequence_list(problem_shape const& shape, ragged const& offsets)
      : shape_(shape), query_(offsets.query_offsets), key_(offsets.key_offsets), packed_(true) {
    if (shape.batches != 1) fail("ragged", "expected tensors of batch 1, got ", shape.batches);
    check_offsets("ragged (queries)", query_, shape.queries);
    check_offsets("ragged (keys)", key_, shape.keys);
    if (query_.size() != key_.size())
      fail("ragged", "expected as many key offsets as query offsets (", query_.size(), "), got ", key_.size());
  }

  sequence_list(problem_shape const& shape, query_part const& part)
      : shape_(shape), key_(part.key_lengths), part_{part.first, part.last}, in_parts_(true) {
    check_lengths("cache", key_, shape.keys);
  }

  /// Queries that are asked for, of the tensors' token axis.
  index_t asked() const { return in_parts_ ? part_.count() : shape_.queries; }
  /// Queries of a batch behind those of its sequence: nobody's.
  index_t padding(index_t s) const { return packed_ || in_parts_ ? 0 : shape_.queries - (*this)[s].queries; }

  /// The least and the greatest position of queries that have keys; {0, -1} if there are none.
  key_range query_positions() const {
    key_range reach{0, -1};
    for (index_t s = 0; s < size(); ++s) {
      sequence const one = (*this)[s];
      if (one.queries == 0 || one.keys == 0) continue;
      reach = {std::min(reach.first, one.keys - one.queries), std::max(reach.last, one.keys - 1)};
    }
    return reach;
  }

  bool packed() const { return packed_; }
  index_t size() const { return packed_ ? query_.size() - 1 : shape_.batches; }

  sequence operator[](index_t s) const {
    if (packed_) return {0, query_[s], query_[s + 1] - query_[s], key_[s], key_[s + 1] - key_[s]};
    if (in_parts_) return {s, 0, part_.last, 0, key_[s], part_.first};
    return {s, 0, query_.size() ? query_[s] : shape_.queries, 0, key_.size() ? key_[s] : shape_.keys};
  }

 private:
  void check_lengths(char const* argument, index_list const& lengths, index_t tokens) const {
    if (lengths.size() != shape_.batches)
      fail(argument, "expected one length for each of ", shape_.batches, " batches, got ", lengths.size());
    for (index_t b = 0; b < lengths.size(); ++b)
      if (lengths[b] < 0 || lengths[b] > tokens)
        fail(argument, "expected lengths from 0 to ", tokens, ", got ", lengths[b], " at ", b);
  }

  static void check_offsets(char const* argument, index_list const& offsets, index_t tokens) {
    if (offsets.size() < 1) fail(argument, "expected at least one offset, got none");
    if (offsets[0] != 0) fail(argument, "expected a first offset of 0, got ", offsets[0]);
    for (index_t s = 1; s < offsets.size(); ++s)
      if (offsets[s] < offsets[s - 1])
        fail(argument, "expected offsets that never fall, got ", offsets[s], " after ", offsets[s - 1], " at ", s);
    if (offsets[offsets.size() - 1] != tokens)
      fail(argument, "expected a last offset of ", tokens, " (the tokens), got ", offsets[offsets.size() - 1]);
  }

  problem_shape shape_;
  index_list query_, key_;
  key_range part_{};
  bool packed_ = false, in_parts_ = false;
};

}  // namespace detail
}  // namespace attend::inline ATTEND_TARGET
