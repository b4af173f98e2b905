// SPDX-License-Identifier: BSD-3-Clause
// What a call can give for its keys: how much weight each of them was given.
//
//   key_mass{t}                    mass_j = sum_i p_ij over the queries i of j's sequence
//   key_mass{t, last_queries{n}}   over the last n queries of each sequence
//   key_mass{t, query_range{a, b}} over queries a to b - 1 of each sequence
//   key_mass{t, query_list{l}}     over the queries that an ascending list names, of each sequence
//
//   t   [batch, query head, key]   each head apart
//       [batch, key head, key]     added up over the query heads that share a key head
//       [batch, 1, key]            added up over all heads
//
// in the accumulation type; leading axes may be left out. p are the weights before gains, so that extra key-value slots
// and sinks take their part of a row, and a head whose gate is 0 gives nothing. A key beyond the end of a sequence has
// 0. Of a cache, the call softmax_attention(query, cache, output, ...) writes the masses of tokens by their position;
// one that the cache has dropped has 0.
//
// A weight is known only once its row is: so a second pass over the pairs of the chosen queries follows the call. It
// takes one product of queries and keys, half of the call's work, and keeps no weights.
#pragma once

#include "../core/index_list.hpp"
#include "output.hpp"
#include "tile.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// The last queries of each sequence: all, where it has no more than `count`.
struct last_queries {
  index_t count;
};

/// Queries `first` to `last` - 1 of each sequence, counted from its first one.
struct query_range {
  index_t first, last;
};

/// The queries of each sequence that an ascending list of 32- or 64-bit integers names, counted from its first one;
/// entries beyond a sequence's end name nothing. Consecutive queries are computed together.
struct query_list {
  index_list queries;
};

}  // namespace options

namespace detail {

/// Which of a sequence's queries are wanted.
class query_choice {
 public:
  query_choice() = default;
  query_choice(last_queries const& last) : kind_(kind::last), first_(last.count) {}
  query_choice(query_range const& range) : kind_(kind::range), first_(range.first), last_(range.last) {}
  query_choice(query_list const& list) : kind_(kind::list), list_(list.queries) {}

  void check(char const* argument, index_t queries) const {
    if (kind_ == kind::last && first_ < 0) fail(argument, "expected at least 0 last queries, got ", first_);
    if (kind_ == kind::range && (first_ < 0 || last_ < first_ || last_ > queries))
      fail(argument, "expected queries from 0 to ", queries, ", got ", first_, " to ", last_);
    for (index_t i = 0; i < list_.size(); ++i)
      if (list_[i] < 0 || list_[i] >= queries || (i > 0 && list_[i] <= list_[i - 1]))
        fail(argument, "expected ascending queries from 0 to ", queries - 1, ", got ", list_[i], " at ", i);
  }

  /// The first run of wanted queries at or after `from`, of a sequence of so many; empty where there is none.
  key_range next(index_t from, index_t queries) const {
    switch (kind_) {
      case kind::all:
        return {from, queries};
      case kind::last:
        return {std::max(from, queries - first_), queries};
      case kind::range:
        return {std::max(from, first_), std::min(last_, queries)};
      default:
        break;
    }
    index_t low = 0, high = list_.size();
    while (low < high) {
      index_t const middle = low + (high - low) / 2;
      if (list_[middle] < from)
        low = middle + 1;
      else
        high = middle;
    }
    if (low == list_.size() || list_[low] >= queries) return {};
    key_range run{list_[low], list_[low] + 1};
    while (++low < list_.size() && list_[low] == run.last && run.last < queries) ++run.last;
    return run;
  }

  /// How many queries are wanted of a sequence of so many.
  index_t count(index_t queries) const {
    index_t wanted = 0;
    for (key_range run = next(0, queries); !run.empty(); run = next(run.last, queries)) wanted += run.count();
    return wanted;
  }

 private:
  enum class kind { all, last, range, list };

  kind kind_ = kind::all;
  index_t first_ = 0, last_ = 0;
  index_list list_;
};

}  // namespace detail

namespace options {

/// Writes the weights that keys were given, added up over queries, to a tensor [batch, head, key] of the accumulation
/// type; its number of heads says over which heads they are added up. A call throws argument_error where its shape or
/// memory does not fit, or the queries are not there.
///
///     softmax_attention(q, k, v, o, causal{}, key_mass(tokens));                     // over all queries
///     softmax_attention(q, k, v, o, causal{}, key_mass(tokens, last_queries{32}));
template <class T>
struct key_mass : detail::output_tensor<option::key_mass, T, 3> {
  detail::query_choice queries;

  template <extend::TensorArgument Tensor>
  explicit key_mass(Tensor&& tensor, detail::query_choice const& of = {})
      : detail::output_tensor<option::key_mass, T, 3>(tensor), queries(of) {}
};
template <class Tensor>
key_mass(Tensor&&) -> key_mass<element_of_t<Tensor>>;
template <class Tensor, class Queries>
key_mass(Tensor&&, Queries const&) -> key_mass<element_of_t<Tensor>>;

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
