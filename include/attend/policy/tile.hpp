// SPDX-License-Identifier: BSD-3-Clause
// What a policy is told of the work at hand: the problem's shape, the queries of one tile, a range of keys, and, for
// each key, the place of every lane.
#pragma once

#include <algorithm>

#include "../simd/integers.hpp"
#include "../simd/register_tile.hpp"
#include "token_order.hpp"

namespace attend::inline ATTEND_TARGET {

namespace extend {

/// Keys of a block at most: what a policy that copies a tile's elements must hold.
inline constexpr index_t max_block_keys = 128;

/// The shape of a call, for the checks of policies. `queries` and `keys` are the extents of the tensors' token axes;
/// there are as many sequences as batches, unless they are packed.
struct problem_shape {
  index_t batches, query_heads, key_heads, value_heads, queries, keys, key_dimension, value_dimension, sequences;
};

/// What is known of a tile's queries and a range of keys: nobody sees anybody, some see some, all see all.
enum class visibility { none, some, all };

/// Keys [first, last).
struct key_range {
  index_t first = 0;
  index_t last = 0;

  constexpr bool empty() const { return last <= first; }
  constexpr index_t count() const { return last - first; }
  constexpr bool contains(index_t key) const { return first <= key && key < last; }
};

constexpr key_range intersection(key_range a, key_range b) {
  return {std::max(a.first, b.first), std::min(a.last, b.last)};
}
constexpr key_range hull(key_range a, key_range b) {
  return a.empty() ? b : b.empty() ? a : key_range{std::min(a.first, b.first), std::max(a.last, b.last)};
}
/// The one that comes first, or both where they touch.
constexpr key_range first_run(key_range a, key_range b) {
  if (a.empty() || b.empty() || (a.first <= b.last && b.first <= a.last)) return hull(a, b);
  return a.first < b.first ? a : b;
}

/// Queries and heads that see the same keys. Tiles are cut at their multiples, so that no tile computes for all of its
/// rows what only some of them see. 0: tiles may be cut anywhere.
struct tile_grain {
  index_t queries = 0;
  index_t heads = 0;
};

/// Where a key stands: its token in the tensors, if keys are tensors, its position in the sequence, and where it is
/// stored: the number of the sequence, a head of keys, and a row of those that the head has.
struct attended_place {
  index_t batch, token, position;
  index_t sequence = 0, head = 0, row = 0;
};

/// Where a query stands: its token in the tensors, its position in the sequence, the head of keys that it sees, its
/// number among the sequence's queries, and how many of these there are, how many tokens the sequence has had, how many
/// rows of them the head has, and the query head.
struct attending_place {
  index_t batch, token, position;
  index_t sequence = 0, head = 0, query = 0, queries = 0, keys = 0, stored = 0, query_head = 0;
};

/// The queries of one tile: rows in lanes. Rows of one tile have consecutive query indices, each with all of the heads
/// that share a key head. Lanes past `count` repeat the last row.
template <class T>
struct tile_rows {
  static constexpr int lanes = simd::tile_lanes<T>;
  using integer = position_t<T>;

  problem_shape const* shape;
  index_t sequence, batch;                     // the sequence's number, and its batch in the tensors
  index_t first_query_token, first_key_token;  // where it begins on their token axes
  index_t queries, keys;                       // its length
  int count;                                   // rows that are real
  integer first_position;                      // the least and the greatest position among the rows
  integer last_position;
  alignas(64) integer position[array_size(lanes)];  // query index + (keys - queries)
  alignas(64) integer query[array_size(lanes)];     // query index, from 0
  alignas(64) integer head[array_size(lanes)];      // query head
  alignas(64) integer token[array_size(lanes)];     // where the query stands on its tensor's token axis
  T const* packed_query = nullptr;                  // [key dimension][used], scaled; there once keys are taken
  int used = 0;                                     // lanes that are worked on
  index_t key_head = 0, stored = 0;                 // the head of keys that rotated rows see, and its stored rows

  index_t first_query() const { return first_position - (keys - queries); }
  index_t last_query() const { return last_position - (keys - queries); }
  index_t query_token(int lane) const { return token[lane]; }
  attending_place place_of(int lane) const {
    return {batch, token[lane], position[lane], sequence, key_head, query[lane], queries, keys, stored, head[lane]};
  }

  /// Sets rows [first_row, first_row + row_count) of the sequence: (query, head) pairs, heads innermost.
  template <class Order = in_order>
  void set(index_t first_row, index_t row_count, index_t const* heads, index_t head_count, Order const& order = {}) {
    count = static_cast<int>(row_count);
    index_t const first = first_row / head_count;
    index_t at = first, h = first_row % head_count;
    [[maybe_unused]] index_t ordered[array_size(lanes)];
    [[maybe_unused]] key_range const places{first, (first_row + row_count - 1) / head_count + 1};
    if constexpr (requires { order.query_tokens_at(places, ordered); })
      order.query_tokens_at(places, ordered);
    else if constexpr (!std::same_as<Order, in_order>)
      order.tokens_at(places, ordered);
    for (int lane = 0; lane < lanes; ++lane) {
      bool const real = lane < count;
      query[lane] = real ? static_cast<integer>(at) : query[lane - 1];
      head[lane] = real ? static_cast<integer>(heads[h]) : head[lane - 1];
      if (!real)
        token[lane] = token[lane - 1];
      else if constexpr (std::same_as<Order, in_order>)
        token[lane] = static_cast<integer>(first_query_token + at);
      else
        token[lane] = static_cast<integer>(first_query_token + ordered[at - first]);
      position[lane] = static_cast<integer>(query[lane] + (keys - queries));
      if (++h == head_count) h = 0, ++at;
    }
    first_position = position[0];
    last_position = position[count - 1];
  }
};

/// Where a mask is asked: one key, and a vector of queries. `query` is the queries' position, `key` the key's, in every
/// lane; `lane` is the first lane's index in the tile.
template <class T>
struct mask_place {
  simd::integers<T> query_position, key_position;
  tile_rows<T> const& rows;
  index_t key_index;
  int lane;

  simd::integers<T> query_index() const { return simd::load(rows.query + lane); }
  simd::integers<T> head() const { return simd::load(rows.head + lane); }
  index_t batch() const { return rows.batch; }
};

/// Where a score is changed: as for masks, with the positions in the score's own type.
template <class T>
struct score_place {
  simd::vector<T> query_position, key_position;
  tile_rows<T> const& rows;
  index_t key_index;
  int lane;

  simd::vector<T> query_index() const { return as_score(rows.query); }
  simd::vector<T> head() const { return as_score(rows.head); }
  index_t batch() const { return rows.batch; }

 private:
  simd::vector<T> as_score(position_t<T> const* lanes) const {
    using whole [[gnu::vector_size(sizeof(T) * simd::width<T>)]] = position_t<T>;
    using real [[gnu::vector_size(sizeof(T) * simd::width<T>)]] = T;
    return std::bit_cast<simd::vector<T>>(
        __builtin_convertvector(std::bit_cast<whole>(simd::load(lanes + lane)), real));
  }
};

/// A vector per lane of a tile, filled from a function of the lane.
template <class T>
struct lane_values {
  alignas(64) T values[tile_rows<T>::lanes];

  template <class Function>
  explicit lane_values(Function&& function) {
    for (int lane = 0; lane < tile_rows<T>::lanes; ++lane) values[lane] = static_cast<T>(function(lane));
  }

  ATTEND_INLINE simd::vector<T> at(int lane) const { return simd::load(values + lane); }
};

}  // namespace extend

}  // namespace attend::inline ATTEND_TARGET
