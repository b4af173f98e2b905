// SPDX-License-Identifier: BSD-3-Clause
// How many pairs of a query and a key a mask allows: what the definition of a benchmark's problem makes necessary, and
// what its floating-point operations are counted from.
#pragma once

#include <attend/core/types.hpp>

#include <algorithm>

namespace attend_bench {

using attend::index_t;

/// Pairs of one head, where query i sees key_count(i) keys.
template <class KeyCount>
double visible_pairs(index_t queries, KeyCount key_count) {
  double pairs = 0;
  for (index_t query = 0; query < queries; ++query) pairs += static_cast<double>(key_count(query));
  return pairs;
}

/// Pairs of one head where the query at position p sees keys p - left to p + right, and -1 leaves a side open. The last
/// query stands at the last key.
inline double window_pairs(index_t queries, index_t keys, index_t left, index_t right) {
  return visible_pairs(queries, [=](index_t query) {
    index_t const position = query + keys - queries;
    index_t const first = left < 0 ? 0 : std::clamp<index_t>(position - left, 0, keys);
    index_t const last = right < 0 ? keys : std::clamp<index_t>(position + right + 1, 0, keys);
    return std::max<index_t>(last - first, 0);
  });
}

}  // namespace attend_bench
