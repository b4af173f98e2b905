// SPDX-License-Identifier: BSD-3-Clause
// Parts of a call, from which patterns are put together with & | !: every pair of certain heads, queries or keys.
//
//   heads_in{first, last}      pairs of query heads [first, last): heads with patterns of their own
//   queries_in{first, last}    pairs whose query stands at a position in [first, last)
//   keys_in{first, last}       pairs whose key does
//
//   (heads_in{0, 2} & documents{tokens}) | (heads_in{2, 4} & window{1, 1}) | heads_in{4, 8}
#pragma once

#include "interval_mask.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Shows the pairs of query heads [first, last).
///
///     softmax_attention(q, k, v, o, (heads_in(0, 2) & window{64, 0}) | heads_in(2, 8));
struct heads_in : extend::interval_mask<heads_in> {
  constexpr heads_in(index_t first, index_t last) : first_(first), last_(last) {}

  void check(extend::problem_shape const& shape) const {
    if (first_ < 0 || last_ < first_ || last_ > shape.query_heads)
      extend::fail("heads_in", "expected heads from 0 to ", shape.query_heads, ", got ", first_, " to ", last_);
  }
  extend::tile_grain grain(extend::problem_shape const&) const { return {0, std::gcd(first_, last_)}; }
  template <class T>
  extend::key_range interval(extend::tile_rows<T> const& rows, int lane) const {
    return {0, first_ <= rows.head[lane] && rows.head[lane] < last_ ? rows.keys : 0};
  }

 private:
  index_t first_, last_;
};

/// Shows the pairs whose query stands at a position in [first, last).
///
///     softmax_attention(q, k, v, o, queries_in(0, 100) | causal{});
struct queries_in : extend::interval_mask<queries_in> {
  constexpr queries_in(index_t first, index_t last) : first_(first), last_(last) {}

  template <class T>
  extend::key_range interval(extend::tile_rows<T> const& rows, int lane) const {
    return {0, first_ <= rows.position[lane] && rows.position[lane] < last_ ? rows.keys : 0};
  }

 private:
  index_t first_, last_;
};

/// Shows the pairs whose key stands at a position in [first, last).
///
///     softmax_attention(q, k, v, o, causal{} & !keys_in(35, 611));  // without an image
struct keys_in : extend::interval_mask<keys_in> {
  constexpr keys_in(index_t first, index_t last) : first_(first), last_(last) {}

  template <class T>
  extend::key_range interval(extend::tile_rows<T> const&, int) const {
    return {first_, last_};
  }

 private:
  index_t first_, last_;
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
