// SPDX-License-Identifier: BSD-3-Clause
// Sliding window: with p the query's position, key j is seen where p - left <= j <= p + right.
// -1 leaves a side open: window{4096, 0} is causal with the 4096 last keys and the own one, window{-1, -1} is full.
//
// Iz Beltagy, Matthew Peters, Arman Cohan: Longformer, 2020 (the symmetric window of a local pattern).
#pragma once

#include "alignment.hpp"
#include "mask.hpp"

namespace attend::inline ATTEND_TARGET {

/// Shows `left` keys before the query's position, the key at it, and `right` keys behind it; -1 leaves a side open. A
/// call throws argument_error where a side is less than -1.
///
///     softmax_attention(q, k, v, o, window{4096, 0});  // causal, with the last 4096 keys and the own one
struct window {
  using option_kind = option::mask;
  index_t left = -1;
  index_t right = -1;
  options::alignment aligned = options::bottom_right;

  void check(extend::problem_shape const&) const {
    if (left < -1) detail_fail("left", left);
    if (right < -1) detail_fail("right", right);
    detail::check_alignment("window", aligned);
  }
  template <class T>
  extend::key_range bounds(extend::tile_rows<T> const& rows) const {
    index_t const shift = aligned.shift(rows);
    return {left < 0 ? 0 : std::clamp<index_t>(rows.first_position + shift - reach(left), 0, rows.keys),
            right < 0 ? rows.keys : std::clamp<index_t>(rows.last_position + shift + reach(right) + 1, 0, rows.keys)};
  }
  template <class T>
  extend::visibility classify(extend::tile_rows<T> const& rows, extend::key_range range) const {
    extend::key_range const outer = extend::intersection(bounds(rows), range);
    if (outer.empty()) return extend::visibility::none;
    index_t const shift = aligned.shift(rows);
    bool const whole_left = left < 0 || rows.last_position + shift - reach(left) <= range.first;
    bool const whole_right = right < 0 || rows.first_position + shift + reach(right) >= range.last - 1;
    return whole_left && whole_right ? extend::visibility::all : extend::visibility::some;
  }
  template <class T>
  ATTEND_INLINE auto visible(extend::mask_place<T> const& place) const {
    auto const distance = place.key_position - (place.query_position + aligned.shift(place.rows));
    auto const not_before = left < 0 ? simd::integers<T>(0) >= 0 : distance >= -reach(left);
    auto const not_after = right < 0 ? simd::integers<T>(0) >= 0 : distance <= reach(right);
    return not_before & not_after;
  }

 private:
  // Wider than any distance (an index and an offset) is as good as open, and does not overflow.
  static constexpr index_t reach(index_t side) { return std::min(side, 2 * extend::token_limit); }

  static void detail_fail(char const* side, index_t came) {
    extend::fail("window", "expected ", side, " of at least -1, got ", came);
  }
};

}  // namespace attend::inline ATTEND_TARGET
