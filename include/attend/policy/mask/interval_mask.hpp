// SPDX-License-Identifier: BSD-3-Clause
// What masks share whose rows see one interval of keys each: windows per head, blocks, segments, centred windows. Such
// a mask says which interval a row sees; bounds, tiles and lanes follow from that.
#pragma once

#include "mask.hpp"

namespace attend::inline ATTEND_TARGET {

namespace extend {

/// Mask says `key_range interval(rows, lane)`; it may be empty or stick out of the keys.
template <class Mask>
struct interval_mask {
  using option_kind = option::mask;

  void check(problem_shape const&) const {}
  template <class T>
  key_range bounds(tile_rows<T> const& rows) const {
    key_range all;
    for (int lane = 0; lane < rows.count; ++lane) all = hull(all, interval_of(rows, lane));
    return all;
  }
  template <class T>
  visibility classify(tile_rows<T> const& rows, key_range range) const {
    bool every = true, some = false;
    for (int lane = 0; lane < rows.count; ++lane) {
      key_range const interval = interval_of(rows, lane);
      some |= !intersection(interval, range).empty();
      every &= interval.first <= range.first && range.last <= interval.last;
    }
    return every ? visibility::all : some ? visibility::some : visibility::none;
  }
  template <class T>
  auto bind(tile_rows<T> const& rows, key_range) const {
    using integer = position_t<T>;
    struct bound {
      alignas(64) integer first[tile_rows<T>::lanes], last[tile_rows<T>::lanes];
      ATTEND_INLINE auto operator()(mask_place<T> const& place) const {
        return (place.key_position >= simd::load(first + place.lane)) &
               (place.key_position < simd::load(last + place.lane));
      }
    };
    bound result;
    for (int lane = 0; lane < tile_rows<T>::lanes; ++lane) {
      key_range const interval = interval_of(rows, std::min(lane, rows.count - 1));
      result.first[lane] = static_cast<integer>(interval.first);
      result.last[lane] = static_cast<integer>(interval.last);
    }
    return result;
  }

 private:
  template <class T>
  key_range interval_of(tile_rows<T> const& rows, int lane) const {
    key_range const interval = static_cast<Mask const&>(*this).interval(rows, lane);
    return {std::clamp<index_t>(interval.first, 0, rows.keys), std::clamp<index_t>(interval.last, 0, rows.keys)};
  }
};

}  // namespace extend

namespace detail {

/// How far from a position a side of a window reaches: -1 is open, and wider than any distance is as good as open.
constexpr index_t reach_of(index_t side) { return side < 0 || side > 2 * token_limit ? 2 * token_limit : side; }

}  // namespace detail

}  // namespace attend::inline ATTEND_TARGET
