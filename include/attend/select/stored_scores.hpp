// SPDX-License-Identifier: BSD-3-Clause
// Scores of the keys of a cache, which are read in place: for selectors that store no summaries of their own.
//
//   score[query][token] = query . key          or the largest over the queries
//
// Cost: the bytes of the keys, once for all queries of a head. Rows that do not fill whole vectors are copied, a few at
// a time. Channel scales are multiplied into the queries, which are packed again where the scales change.
#pragma once

#include "../cache/key_value_rows.hpp"
#include "row_scores.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// Writes the scores of stored rows [first, last) of a head to to[query * to_stride + row - first], or if `largest`
/// their largest over the queries to to[row - first]. query(i) returns the elements of query i of `queries`.
template <KeyValueSource Source, class Query>
void score_stored_keys(Source const& source, index_t sequence, index_t head, index_t first, index_t last,
                       index_t queries, Query const& query, float* to, index_t to_stride, bool largest) {
  using Key = typename Source::key_element;
  using A = storage_accumulation_t<Key>;
  constexpr index_t rows_of_copy = 64;
  if (queries == 0) return;
  scratch memory;
  index_t const dimension = source.key_dimension(), elements = divide_up(dimension, elements_in<Key>);
  index_t const padded = round_up(dimension, simd::group_elements<Key>) / elements_in<Key>;
  row_queries<Key> packed(memory, queries, dimension);
  A* const scaled = memory.allocate<A>(dimension);
  float const* channel_scale = nullptr;
  bool ready = false;
  Key* const copy = padded == elements ? nullptr : memory.allocate<Key>(rows_of_copy * padded);
  if (copy) std::memset(static_cast<void*>(copy), 0, static_cast<std::size_t>(rows_of_copy * padded) * sizeof(Key));
  for (index_t row = first; row < last;) {
    auto const run = adjacent_rows(source, sequence, head, row);
    if (!ready || run.channel_scale != channel_scale) {
      ready = true;
      channel_scale = run.channel_scale;
      for (index_t i = 0; i < queries; ++i) {
        A const* const from = query(i);
        for (index_t c = 0; c < dimension; ++c)
          scaled[c] = from[c] * (channel_scale ? static_cast<A>(channel_scale[c]) : A(1));
        packed.set(i, scaled);
      }
    }
    index_t count = std::min(run.count, last - row);
    Key const* key = run.key;
    index_t stride = run.key_stride;
    if (copy) {
      count = std::min(count, rows_of_copy);
      for (index_t i = 0; i < count; ++i) std::copy_n(run.key + i * run.key_stride, elements, copy + i * padded);
      key = copy;
      stride = padded;
    }
    packed.score({key, stride, count, run.key_scale, run.key_scale_stride, to + (row - first), to_stride, largest});
    row += count;
  }
}

}  // namespace attend::inline ATTEND_TARGET::detail
