// SPDX-License-Identifier: BSD-3-Clause
// The element of a given rank in each column of a matrix whose columns are side by side in lanes. Filters of each
// query's logits need it, where the logits of a tile are [key][lane].
//
//   to[lane] = a number x such that the elements of column `lane` that are not below x are the column without its
//              `rank` smallest elements, but with all elements that are equal to the smallest of the rest
//
// For all lanes of a vector at once, a bracket around x is narrowed by counting the elements below a number within it.
// That number is first interpolated linearly between the counts at the ends of the bracket. Where this does not end
// soon (outliers, ties), the bracket is halved instead, as integers in the order of the numbers. NaN is not below any
// number.
//
// Cost: about ten passes over the matrix; in the worst case as many as a number has bits.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "../simd/vector.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// The number halfway between two numbers in the order of their bits; `low` where there is no number between them.
template <class A>
A between(A low, A high) {
  using integer = std::conditional_t<sizeof(A) == 4, std::int32_t, std::int64_t>;
  constexpr integer magnitude = std::numeric_limits<integer>::max();
  auto const turned = [](integer bits) { return bits < 0 ? static_cast<integer>(bits ^ magnitude) : bits; };
  integer const a = turned(std::bit_cast<integer>(low)), b = turned(std::bit_cast<integer>(high));
  return std::bit_cast<A>(turned((a >> 1) + (b >> 1) + (a & b & 1)));
}

/// Counts the elements below `bound` in each lane of one vector of columns.
template <class A>
void count_below(A const* columns, index_t count, index_t stride, A const* bound, index_t* below) {
  using namespace simd;
  constexpr index_t group_size = 4096;  // counts are floating-point numbers, which are exact up to this
  vector<A> const limit = load(bound), one(A(1)), none(A(0));
  std::fill_n(below, width<A>, index_t{0});
  for (index_t first = 0; first < count; first += group_size) {
    vector<A> found[2] = {none, none};
    index_t const last = std::min(first + group_size, count);
    index_t j = first;
    for (; j + 2 <= last; j += 2) {
      found[0] = found[0] + simd::select(load(columns + j * stride) < limit, one, none);
      found[1] = found[1] + simd::select(load(columns + (j + 1) * stride) < limit, one, none);
    }
    if (j < last) found[0] = found[0] + simd::select(load(columns + j * stride) < limit, one, none);
    alignas(64) A counts[array_size(width<A>)];
    store(counts, found[0] + found[1]);
    for (int lane = 0; lane < width<A>; ++lane) below[lane] += static_cast<index_t>(counts[lane]);
  }
}

/// Writes to[lane] for the lanes of one vector of columns of `count` elements, where 0 <= rank < count. Rows are
/// `stride` apart, and aligned.
template <class A>
void column_ranks(A const* columns, index_t count, index_t stride, index_t rank, A* to) {
  using namespace simd;
  constexpr int lanes = width<A>, straight = 12;  // passes before halving
  alignas(64) A low[array_size(lanes)], high[array_size(lanes)], middle[array_size(lanes)];
  vector<A> least = load(columns), most = least;
  for (index_t j = 1; j < count; ++j) {
    vector<A> const x = load(columns + j * stride);
    least = simd::select(x < least, x, least);
    most = simd::select(x > most, x, most);
  }
  store(low, least);
  store(high, most);
  index_t low_count[array_size(lanes)] = {}, high_count[array_size(lanes)], below[array_size(lanes)];
  bool ends[array_size(lanes)];
  for (int lane = 0; lane < lanes; ++lane) {
    high[lane] = std::nextafter(high[lane], infinity<A>);
    high_count[lane] = count;
    ends[lane] = rank == 0 || !(low[lane] < high[lane]);
  }
  for (int pass = 0; !std::all_of(ends, ends + lanes, [](bool x) { return x; }); ++pass) {
    for (int lane = 0; lane < lanes; ++lane) {
      A const part = (static_cast<A>(rank - low_count[lane]) + A(0.5)) /
                     static_cast<A>(std::max<index_t>(high_count[lane] - low_count[lane], 1));
      A const guess = low[lane] + (high[lane] - low[lane]) * part;
      bool const inside = pass < straight && guess > low[lane] && guess < high[lane];
      middle[lane] = ends[lane] ? low[lane] : inside ? guess : between(low[lane], high[lane]);
      // The search ends where there is no number between the ends of the bracket.
      ends[lane] = ends[lane] || !(middle[lane] > low[lane]);
    }
    count_below(columns, count, stride, middle, below);
    for (int lane = 0; lane < lanes; ++lane) {
      if (ends[lane]) continue;
      bool const is_low = below[lane] <= rank;
      (is_low ? low : high)[lane] = middle[lane];
      (is_low ? low_count : high_count)[lane] = below[lane];
      ends[lane] = below[lane] == rank;
    }
  }
  std::copy_n(low, lanes, to);
}

}  // namespace attend::inline ATTEND_TARGET::detail
