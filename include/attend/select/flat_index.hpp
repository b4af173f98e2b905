// SPDX-License-Identifier: BSD-3-Clause
// An exact index of a cache's keys by inner product. It stores nothing, and a search reads all keys, once for all query
// heads that share them.
//
//   search(query, first, last, k) = the k tokens of [first, last) with the largest q . k_j
//
// Other indexes offer the same functions, but the tokens that they find need not be the exact ones.
#pragma once

#include "page_selector.hpp"
#include "stored_scores.hpp"

namespace attend::inline ATTEND_TARGET {

namespace selection {

/// An index that stores nothing and reads all keys in each search: its results are exact.
///
///     retrieval_selector<flat_index> selector(shape, 32, 4096, {.first = 128, .last = 512, .tokens = 100});
class flat_index {
 public:
  /// Does nothing, since the index reads the cache itself.
  template <KeyValueSource Cache, Executor E = serial>
  void update(Cache const&, E&&) {}
  index_t bytes() const { return 0; }

  /// Searches for `queries` queries of one key-value head. query(i) returns the elements of query i, and found(i,
  /// tokens) is called with the tokens that were found for it, in ascending order.
  template <KeyValueSource Cache, class Query, class Found>
  void search(Cache const& cache, index_t sequence, index_t head, index_t first, index_t last, index_t k,
              index_t queries, Query const& query, Found const& found) const {
    extend::scratch memory;
    index_t const count = last - first;
    float* const scores = memory.allocate<float>(queries * count + 1);
    auto* const chosen = memory.allocate<std::int32_t>(count + 1);
    detail::score_stored_keys(cache, sequence, head, first, last, queries, query, scores, count, false);
    for (index_t i = 0; i < queries; ++i) {
      index_t const some = top_k(scores + i * count, count, k, chosen);
      for (index_t t = 0; t < some; ++t) chosen[t] += static_cast<std::int32_t>(first);
      found(i, std::span<std::int32_t const>(chosen, static_cast<std::size_t>(some)));
    }
  }
};

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
