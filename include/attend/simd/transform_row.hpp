// SPDX-License-Identifier: BSD-3-Clause
// Rows element by element: a function of vectors over the elements of one row or of several, in the accumulation type.
//
//   to[c] = function(row(c), ...)        rounded once, where it is written
//
// `to` may be one of the rows.
#pragma once

#include "convert.hpp"

namespace attend::inline ATTEND_TARGET::simd {

/// Transforms `count` elements. The function is called with vectors, whose lanes past the end of a row are 0.
template <Element To, class Function, Element... From>
ATTEND_INLINE void transform_row(To* to, index_t count, Function const& function, From const*... rows) {
  constexpr index_t step = width<accumulation_t<To>>;
  index_t c = 0;
  for (; c + step <= count; c += step) narrow(to + c, function(widen(rows + c)...));
  if (index_t const rest = count - c; rest > 0) narrow_part(to + c, function(widen_part(rows + c, rest)...), rest);
}

}  // namespace attend::inline ATTEND_TARGET::simd
