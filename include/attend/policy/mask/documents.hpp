// SPDX-License-Identifier: BSD-3-Clause
// Documents: tokens of several documents stand in one sequence, and see only tokens of their own. Document numbers need
// not be sorted, but where they are, only the keys of a tile's own documents are looked at. One list for all sequences,
// [tokens], or one for each, [batch * tokens]; or two lists, for queries and keys apart.
//
// Mario Michael Krell et al.: Efficient Sequence Packing without Cross-contamination, 2021.
#pragma once

#include <numeric>

#include "../../core/index_list.hpp"
#include "mask.hpp"

namespace attend::inline ATTEND_TARGET::options {

/// Shows each token the tokens of its own document. A call throws argument_error where a list is neither as long as its
/// tokens nor as long as those of all sequences.
///
///     softmax_attention(q, k, v, o, documents{ids} & causal{});
struct documents {
  using option_kind = option::mask;

  /// Queries and keys have the same numbers: this is for self-attention.
  explicit documents(index_list tokens) : documents(tokens, tokens) {}
  documents(index_list query, index_list key) : query_(query), key_(key) {
    for (index_t i = 1; i < key.size(); ++i)
      if (key[i] < key[i - 1]) falls_ = std::gcd(falls_, i);
  }

  void check(problem_shape const& shape) const {
    check_list("documents (queries)", query_, shape.queries, shape.batches);
    check_list("documents (keys)", key_, shape.keys, shape.batches);
  }
  template <class T>
  key_range bounds(tile_rows<T> const& rows) const {
    // Numbers that fall only where a batch begins are sorted within each.
    if (rows.shape->keys == 0 || falls_ % rows.shape->keys != 0) return {0, rows.keys};
    index_t const query_start = first_query(rows), key_start = first_key(rows);
    auto const own = extremes(query_, query_start + rows.first_query(), query_start + rows.last_query() + 1);
    return {bisect(rows.keys, [&](index_t key) { return key_[key_start + key] < own.first; }),
            bisect(rows.keys, [&](index_t key) { return key_[key_start + key] <= own.second; })};
  }
  template <class T>
  visibility classify(tile_rows<T> const& rows, key_range range) const {
    index_t const query_start = first_query(rows), key_start = first_key(rows);
    auto const [query_least, query_most] =
        extremes(query_, query_start + rows.first_query(), query_start + rows.last_query() + 1);
    auto const [key_least, key_most] = extremes(key_, key_start + range.first, key_start + range.last);
    if (query_most < key_least || key_most < query_least) return visibility::none;
    return query_least == query_most && key_least == key_most && query_least == key_least ? visibility::all
                                                                                          : visibility::some;
  }
  template <class T>
  auto bind(tile_rows<T> const& rows, key_range) const {
    using integer = position_t<T>;
    struct bound {
      alignas(64) integer document[tile_rows<T>::lanes];
      index_list keys;
      index_t key_start;
      auto operator()(mask_place<T> const& place) const {
        return simd::load(document + place.lane) ==
               simd::vector<integer>(static_cast<integer>(keys[key_start + place.key_index]));
      }
    };
    bound result{{}, key_, first_key(rows)};
    index_t const query_start = first_query(rows);
    for (int lane = 0; lane < tile_rows<T>::lanes; ++lane)
      result.document[lane] = static_cast<integer>(query_[query_start + rows.query[lane]]);
    return result;
  }

 private:
  static void check_list(char const* argument, index_list const& list, index_t tokens, index_t batches) {
    if (list.size() != tokens && list.size() != tokens * batches)
      fail(argument, "expected ", tokens, " or ", tokens * batches, " document numbers, got ", list.size());
    for (index_t i = 0; i < list.size(); ++i)
      if (list[i] < std::numeric_limits<std::int32_t>::min() || list[i] > std::numeric_limits<std::int32_t>::max())
        fail(argument, "expected document numbers of 32 bits, got ", list[i], " at ", i);
  }

  // Where the numbers of a sequence begin in its list.
  template <class T>
  index_t first_query(tile_rows<T> const& rows) const {
    return (query_.size() == rows.shape->queries ? 0 : rows.batch * rows.shape->queries) + rows.first_query_token;
  }
  template <class T>
  index_t first_key(tile_rows<T> const& rows) const {
    return (key_.size() == rows.shape->keys ? 0 : rows.batch * rows.shape->keys) + rows.first_key_token;
  }

  // The first of the numbers below `count` for which `before` no longer holds.
  template <class Before>
  static index_t bisect(index_t count, Before&& before) {
    index_t first = 0;
    while (first < count) {
      index_t const middle = first + (count - first) / 2;
      if (before(middle))
        first = middle + 1;
      else
        count = middle;
    }
    return first;
  }

  static std::pair<index_t, index_t> extremes(index_list const& list, index_t first, index_t last) {
    index_t least = list[first], most = least;
    for (index_t i = first + 1; i < last; ++i) {
      least = std::min(least, list[i]);
      most = std::max(most, list[i]);
    }
    return {least, most};
  }

  index_list query_, key_;
  index_t falls_ = 0;  // a divisor of all places where the keys' numbers fall; 0: nowhere
};

}  // namespace attend::inline ATTEND_TARGET::options
