// SPDX-License-Identifier: BSD-3-Clause
// Scores of a cache's keys as products of integers, where they are stored as such: what stored_scores.hpp computes, by
// the split engine's products (split_integers.hpp), with queries rounded to 16 bits.
//
//   to[query][row] = query . key
//
// Cost: the bytes of the keys, once for as many queries as a vector has lanes; half of the multiplications of floats,
// and fewer instructions to unpack keys.
#pragma once

#include "../core/stream_ahead.hpp"
#include "../engine/softmax/row_list.hpp"
#include "../engine/softmax/split_rows.hpp"
#include "../simd/gather.hpp"
#include "stored_scores.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// Writes the scores of stored rows [first, last) of a head, whose keys have no channel scales, to
/// to[query * to_stride + row - first]. query(i) returns the elements of query i of `queries`.
template <KeyValueSource Source, class Query>
void score_stored_integers(Source const& source, index_t sequence, index_t head, index_t first, index_t last,
                           index_t queries, Query const& query, float* to, index_t to_stride) {
  using Key = typename Source::key_element;
  using products = engine::pair_products<Key>;
  constexpr index_t width = simd::width<float>, most = engine::split_block_keys;
  static_assert(is_scaled<Key>);
  index_t const dimension = source.key_dimension();
  for (index_t before = 0; before < queries; before += width) {
    scratch memory;
    engine::whole_rows<Key, true> const whole(memory, dimension);
    index_t const vectors = whole.vectors() * width / products::numbers;
    engine::split_rows<float> rows;
    rows.rows.count = static_cast<int>(std::min(width, queries - before));
    rows.open(memory, whole.vectors(), 0, true);
    for (int lane = 0; lane < rows.lanes; ++lane)
      rows.template pack_integers<Key>(lane, lane < rows.rows.count ? query(before + lane) : nullptr, dimension,
                                       vectors);
    void const* key[array_size(most + width)];
    alignas(64) float scale[array_size(most + width)], scores[array_size(most * width + width)];
    auto const of_keys = simd::detail::numbered<position_t<float>>() *
                         simd::vector<position_t<float>>(static_cast<position_t<float>>(rows.lanes));
    stream_ahead const ahead(true, machine::here().read_ahead);
    for (index_t row = first, count = 0; row < last; row += count) {
      auto const run = adjacent_rows(source, sequence, head, row);
      count = std::min({run.count, last - row, most});
      // Whole tiles are read: the last row is repeated.
      index_t const padded = round_up(count, width);
      for (index_t j = 0; j < padded; ++j) {
        index_t const at = std::min(j, count - 1);
        key[j] = run.key + at * run.key_stride;
        scale[j] = run.key_scale[at * run.key_scale_stride];
      }
      for (index_t j = 0; j < count; ++j)
        for (index_t byte = 0; byte < whole.bytes(); byte += engine::read_ahead::line)
          ahead.fetch(static_cast<std::byte const*>(key[j]) + byte);
      auto const* const whole_keys = whole.read(key, padded);
      auto const score = [&]<int R, int Step>() {
        engine::score_keys<Key, products, R, Step>(whole_keys, scale, padded, rows.integers, rows.integer_scale,
                                                   vectors, rows.lanes, scores,
                                                   static_cast<engine::read_ahead*>(nullptr));
      };
      switch (rows.tile_rows_count()) {
        case 1:
          score.template operator()<1, products::group>();
          break;
        case 2:
          score.template operator()<std::min(2, engine::max_split_rows<float>), products::group>();
          break;
        default:
          score.template operator()<engine::max_split_rows<float>, products::group>();
      }
      for (index_t i = 0; i < rows.rows.count; ++i) {
        float* const own = to + (before + i) * to_stride + (row - first);
        index_t j = 0;
        for (; j + width <= count; j += width)
          simd::gather<float>(scores + j * rows.lanes + i, of_keys).store_unaligned(own + j);
        for (; j < count; ++j) own[j] = scores[j * rows.lanes + i];
      }
    }
  }
}

}  // namespace attend::inline ATTEND_TARGET::detail
