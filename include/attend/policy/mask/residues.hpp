// SPDX-License-Identifier: BSD-3-Clause
// Strides: keys at every stride-th place.
//
//   same_residue{stride}                       keys a multiple of the stride away from the query: dilation, columns
//   key_columns{period, first, count, step}    keys j with (j - start) mod period < count, and start = first + head *
//                                              step: the same places of every period, for each head some of its own
//
// Rewon Child, Scott Gray, Alec Radford, Ilya Sutskever: Generating Long Sequences with Sparse Transformers, 2019
// (strided and fixed patterns). Charles Condevaux, Sebastien Harispe: LSG Attention, 2022 (strides shifted by head).
#pragma once

#include "mask.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Shows the keys that are a multiple of the stride, in tokens, away from the query. A call throws argument_error where
/// the stride is less than 1.
///
///     softmax_attention(q, k, v, o, window{512, 0} & same_residue{4});
struct same_residue {
  using option_kind = option::mask;
  index_t stride = 1;

  void check(extend::problem_shape const&) const {
    if (stride < 1 || stride >= extend::token_limit)
      extend::fail("same_residue", "expected a stride of 1 to ", extend::token_limit - 1, ", got ", stride);
  }
  template <class T>
  extend::key_range bounds(extend::tile_rows<T> const& rows) const {
    return {0, rows.keys};
  }
  template <class T>
  extend::key_range next(extend::tile_rows<T> const& rows, index_t from) const {
    // Runs are the tile's own positions, moved by multiples of the stride.
    index_t const first = rows.first_position, last = rows.last_position;
    if (last - first + 1 >= stride) return {from, rows.keys};
    index_t const moved = -floor_of((last - from), stride) * stride;
    return extend::intersection({std::max(from, first + moved), last + moved + 1}, {0, rows.keys});
  }
  template <class T>
  extend::visibility classify(extend::tile_rows<T> const& rows, extend::key_range range) const {
    if (stride == 1) return extend::visibility::all;
    // Every difference between these two is that of some pair.
    index_t const least = rows.first_position - (range.last - 1), most = rows.last_position - range.first;
    if (floor_of(most, stride) * stride < least) return extend::visibility::none;
    return least == most ? extend::visibility::all : extend::visibility::some;
  }
  template <class T>
  auto visible(extend::mask_place<T> const& place) const {
    return (place.query_position - place.key_position) % simd::integers<T>(stride) == simd::integers<T>(0);
  }

 private:
  static index_t floor_of(index_t a, index_t b) { return (a >= 0 ? a : a - b + 1) / b; }
};

/// Shows the same `count` places of every `period` keys, which begin at `first` and `step` places later with each head.
/// A call throws argument_error where these do not fit the period.
///
///     softmax_attention(q, k, v, o, key_columns{.period = 64, .first = 56, .count = 8} & causal{});
struct key_columns {
  using option_kind = option::mask;
  index_t period = 1;
  index_t first = 0;
  index_t count = 1;
  index_t step = 0;

  void check(extend::problem_shape const& shape) const {
    if (period < 1 || period >= extend::token_limit)
      extend::fail("key_columns", "expected a period of 1 to ", extend::token_limit - 1, ", got ", period);
    if (first < 0 || first >= period)
      extend::fail("key_columns", "expected a first column from 0 to ", period - 1, ", got ", first);
    if (count < 0 || count > period) extend::fail("key_columns", "expected 0 to ", period, " columns, got ", count);
    if (step < 0 || step >= extend::token_limit / std::max<index_t>(shape.query_heads, 1))
      extend::fail("key_columns", "expected a step of at least 0 that fits, got ", step);
  }
  extend::tile_grain grain(extend::problem_shape const&) const { return {0, step % period == 0 ? 0 : 1}; }
  template <class T>
  extend::key_range bounds(extend::tile_rows<T> const& rows) const {
    return {0, rows.keys};
  }
  template <class T>
  extend::key_range next(extend::tile_rows<T> const& rows, index_t from) const {
    extend::key_range run{rows.keys, rows.keys};
    for_heads(rows, [&](index_t start) { run = extend::first_run(run_of(start, from), run); });
    return extend::intersection(run, {0, rows.keys});
  }
  template <class T>
  extend::visibility classify(extend::tile_rows<T> const& rows, extend::key_range range) const {
    bool every = true, some = false;
    for_heads(rows, [&](index_t start) {
      extend::key_range const run = run_of(start, range.first);
      some |= !run.empty() && run.first < range.last;
      every &= run.first <= range.first && run.last >= range.last;
    });
    return every ? extend::visibility::all : some ? extend::visibility::some : extend::visibility::none;
  }
  template <class T>
  auto visible(extend::mask_place<T> const& place) const {
    auto const start = simd::integers<T>(first) + place.head() * simd::integers<T>(step);
    simd::integers<T> const length(period), column = (place.key_position - start % length + length) % length;
    return column < simd::integers<T>(count);
  }

 private:
  /// Where the columns of each of the tile's heads begin.
  template <class T, class Function>
  void for_heads(extend::tile_rows<T> const& rows, Function&& function) const {
    for (int lane = 0; lane < rows.count && (lane == 0 || rows.head[lane] != rows.head[0]); ++lane)
      function((first + rows.head[lane] * step) % period);
  }
  /// The first columns at or after `from`.
  extend::key_range run_of(index_t start, index_t from) const {
    if (count == period) return {from, extend::token_limit};
    index_t const column = (from + period - start) % period;
    if (column < count) return {from, from + count - column};
    return {from + period - column, count > 0 ? from + period - column + count : 0};
  }
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
