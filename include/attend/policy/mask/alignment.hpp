// SPDX-License-Identifier: BSD-3-Clause
// How query indices and key indices lie side by side. A query's position is its index plus an offset:
//
//   bottom_right   keys - queries: the last query stands at the last key. The default: a decoder with a cache needs it.
//   top_left       0: the first query stands at the first key.
//   offset(n)      n.
#pragma once

#include "../../core/error.hpp"
#include "../tile.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Says how query indices and key indices lie side by side.
struct alignment {
  bool from_end = true;
  index_t offset = 0;

  /// Gives what is added to a bottom-right position to get a position of this alignment.
  template <class T>
  index_t shift(extend::tile_rows<T> const& rows) const {
    return from_end ? 0 : offset - (rows.keys - rows.queries);
  }
};

inline constexpr alignment bottom_right{};
inline constexpr alignment top_left{false, 0};
/// Query i stands at key i + n, where n is below 2^29 in magnitude.
///
///     softmax_attention(q, k, v, o, causal{offset(4096)});
constexpr alignment offset(index_t n) { return {false, n}; }

}  // namespace options

namespace detail {
inline void check_alignment(char const* argument, alignment const& alignment) {
  if (alignment.offset <= -token_limit || alignment.offset >= token_limit)
    fail(argument, "expected an offset below ", token_limit, " in magnitude, got ", alignment.offset);
}
}  // namespace detail

}  // namespace attend::inline ATTEND_TARGET
