// SPDX-License-Identifier: BSD-3-Clause
// A mask that the caller writes: a function of the positions of a query and a key, or of the whole place.
//
//   attend::mask([](auto query, auto key) { return query / 64 == key / 64; })
//   attend::mask([](auto const& at) { return at.head() % 2 == 0 || at.key_position <= at.query_position; })
//
// The function is generic: it is called with vectors of integers, and its truths combine with &&, || and !. It is asked
// for every pair once to find out which tiles are hidden or full, and again in the others.
#pragma once

#include "mask.hpp"

namespace attend::inline ATTEND_TARGET {

/// A mask that the caller writes: a function of the positions of query and key, or of the whole place.
///
///     softmax_attention(q, k, v, o, mask([](auto query, auto key) { return query / 64 == key / 64; }));
template <class Function>
class mask {
 public:
  using option_kind = option::mask;

  constexpr explicit mask(Function function) : function_(std::move(function)) {}

  void check(extend::problem_shape const&) const {}
  template <class T>
  extend::key_range bounds(extend::tile_rows<T> const& rows) const {
    return {0, rows.keys};
  }
  template <class T>
  extend::visibility classify(extend::tile_rows<T> const& rows, extend::key_range range) const {
    return detail::classify_pairs(rows, range, [this](extend::mask_place<T> const& place) { return visible(place); });
  }
  template <class T>
  auto visible(extend::mask_place<T> const& place) const {
    using truth = typename simd::integers<T>::truth;
    if constexpr (std::is_invocable_v<Function const&, simd::integers<T> const&, simd::integers<T> const&>)
      return truth(function_(place.query_position, place.key_position));
    else
      return truth(function_(place));
  }

 private:
  Function function_;
};

}  // namespace attend::inline ATTEND_TARGET
