// SPDX-License-Identifier: BSD-3-Clause
// Some of a sequence's tokens as rows of keys: an order, which names the token of each row, and a mask over such rows,
// which shows the tokens that are at least `distance` before the query.
//
//   token_list, listed_before      the tokens of a list, in ascending order
//   token_stride, stride_before    the tokens first + m * step: a residue class, a column of a grid. Their rows have a
//                                  constant stride in memory, so nothing is gathered
#pragma once

#include "../../core/order.hpp"
#include "../../policy/mask/mask.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// An order given by a list: row i is the token at position i of the list.
struct token_list {
  std::int32_t const* token = nullptr;

  void tokens_at(key_range range, index_t* tokens) const { std::copy(token + range.first, token + range.last, tokens); }
  token_run run_at(index_t position) const { return {token[position], 1, 1}; }
};

/// Shows those of the `count` tokens of an ascending list that are at least `distance` before the query.
struct listed_before {
  using option_kind = option::mask;
  std::int32_t const* token = nullptr;
  index_t count = 0, distance = 0;

  template <class U>
  key_range bounds(tile_rows<U> const& rows) const {
    return {0, std::upper_bound(token, token + count, rows.last_position - distance, detail::ascending{}) - token};
  }

  template <class U>
  visibility classify(tile_rows<U> const& rows, key_range range) const {
    if (token[range.last - 1] <= rows.first_position - distance) return visibility::all;
    return token[range.first] <= rows.last_position - distance ? visibility::some : visibility::none;
  }
  template <class U>
  ATTEND_INLINE auto visible(mask_place<U> const& place) const {
    return simd::integers<U>(static_cast<position_t<U>>(token[place.key_index] + distance)) <= place.query_position;
  }
};

struct token_stride {
  index_t first = 0, step = 1, count = 0;

  index_t token(index_t row) const { return first + row * step; }
  void tokens_at(key_range range, index_t* tokens) const {
    for (index_t row = range.first; row < range.last; ++row) *tokens++ = token(row);
  }
  token_run run_at(index_t row) const { return {token(row), step, count - row}; }
};

/// Shows those rows of a token_stride whose tokens are at least `distance` before the query.
struct stride_before {
  using option_kind = option::mask;
  token_stride tokens;
  index_t distance = 0;

  template <class U>
  key_range bounds(tile_rows<U> const& rows) const {
    return {0, before(rows.last_position)};
  }
  template <class U>
  visibility classify(tile_rows<U> const& rows, key_range range) const {
    if (range.last <= before(rows.first_position)) return visibility::all;
    return range.first < before(rows.last_position) ? visibility::some : visibility::none;
  }
  template <class U>
  ATTEND_INLINE auto visible(mask_place<U> const& place) const {
    return simd::integers<U>(static_cast<position_t<U>>(tokens.token(place.key_index) + distance)) <=
           place.query_position;
  }

 private:
  /// The number of rows that are visible to a query at this position.
  index_t before(index_t position) const {
    index_t const reach = position - distance - tokens.first;
    return reach < 0 ? 0 : std::min(reach / tokens.step + 1, tokens.count);
  }
};

}  // namespace attend::inline ATTEND_TARGET::engine
