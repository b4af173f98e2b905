// SPDX-License-Identifier: BSD-3-Clause
// Causal: query i sees key j where j <= position of i.
//
//   causal{}            bottom-right: the last query sees all keys
//   causal{top_left}    query i sees keys 0..i
//   causal{offset(n)}   query i sees keys 0..i+n
#pragma once

#include "alignment.hpp"
#include "mask.hpp"

namespace attend::inline ATTEND_TARGET {

/// Hides the keys behind a query's position. A call throws argument_error where an offset is out of range.
///
///     softmax_attention(q, k, v, o, causal{});
struct causal {
  using option_kind = option::mask;
  options::alignment aligned = options::bottom_right;

  void check(extend::problem_shape const&) const { detail::check_alignment("causal", aligned); }
  template <class T>
  extend::key_range bounds(extend::tile_rows<T> const& rows) const {
    return {0, std::clamp<index_t>(rows.last_position + aligned.shift(rows) + 1, 0, rows.keys)};
  }
  template <class T>
  extend::visibility classify(extend::tile_rows<T> const& rows, extend::key_range range) const {
    index_t const shift = aligned.shift(rows);
    if (range.last - 1 <= rows.first_position + shift) return extend::visibility::all;
    return range.first <= rows.last_position + shift ? extend::visibility::some : extend::visibility::none;
  }
  template <class T>
  ATTEND_INLINE auto visible(extend::mask_place<T> const& place) const {
    return place.key_position - aligned.shift(place.rows) <= place.query_position;
  }
};

namespace detail {

/// Throws argument_error unless the last query stands at the last key, for calls that know no other causal order. The
/// shape is a problem's or a state's.
template <class Shape>
void check_last_at_last(causal const& mask, Shape const& shape) {
  check_alignment("causal", mask.aligned);
  if (!mask.aligned.from_end && mask.aligned.offset != shape.keys - shape.queries)
    fail("causal", "expected the last query at the last key (offset ", shape.keys - shape.queries, "), got offset ",
         mask.aligned.offset);
}
template <class Shape>
void check_last_at_last(full const&, Shape const&) {}

}  // namespace detail

}  // namespace attend::inline ATTEND_TARGET
