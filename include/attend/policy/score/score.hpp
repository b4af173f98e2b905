// SPDX-License-Identifier: BSD-3-Clause
// What a score policy is: something that changes a logit, after the scale and before the mask. Policies apply in the
// order given.
//
//   check(shape)        throws argument_error for what does not fit
//   apply(s, place)     the changed logits of a vector of queries and one key
//   may_hide            whether it can turn a finite logit into -inf (a bias may; a softcap does not)
//
// A policy with data per row or pair offers bind(rows, range) instead of apply: it returns what is called as
// (s, place) for that tile and these keys.
//
// For gradients it says, besides, by how much its result changes with the logit:
//   keeps_slope         by as much: it only adds
//   slope(s, place)     or so much, with s before the score; bind_slope(rows, range) where there is bind
#pragma once

#include "../../core/check.hpp"
#include "../../core/options.hpp"
#include "../../simd/math.hpp"
#include "../tile.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

template <class S>
concept HasMayHide = requires {
  { S::may_hide } -> std::convertible_to<bool>;
};
template <class S, class T>
concept HasApply =
    requires(S const& score, simd::vector<T> const& s, score_place<T> const& place) {
      { score.apply(s, place) } -> std::convertible_to<simd::vector<T>>;
    } || requires(S const& score, tile_rows<T> const& rows, key_range range, simd::vector<T> const& s,
                  score_place<T> const& place) {
      { score.bind(rows, range)(s, place) } -> std::convertible_to<simd::vector<T>>;
    };

/// Whether a score has all members, for logits of type T; an error names each one that is missing.
template <class S, class T>
consteval bool has_score_members() {
  static_assert(HasCheck<S, problem_shape>, "attend: a score needs check(shape) const");
  static_assert(HasMayHide<S>, "attend: a score needs may_hide, a static constexpr bool");
  static_assert(HasApply<S, T>,
                "attend: a score needs apply(s, place) const, which gives a vector of logits, or bind(rows, range) "
                "const, which gives a function of logits and place");
  return true;
}

}  // namespace detail

namespace extend {

/// A type is a score, for logits of type T, where it has the members that stand at the beginning of this file.
template <class S, class T = float>
concept Score = detail::has_kind<option::score, S> && detail::HasCheck<S, extend::problem_shape> &&
                detail::HasMayHide<S> && detail::HasApply<S, T>;

}  // namespace extend

/// A score that the caller writes: a function of the logits and the place. The function is generic, since it is called
/// with vectors; at.query_position and at.key_position have the score's own type.
///
///     auto const falling =
///         score([](auto s, auto const& at) { return s - 0.1f * (at.query_position - at.key_position); });
///     softmax_attention(q, k, v, o, causal{}, falling);
template <class Function>
class score {
 public:
  using option_kind = option::score;
  static constexpr bool may_hide = true;

  constexpr explicit score(Function function) : function_(std::move(function)) {}

  void check(extend::problem_shape const&) const {}
  template <class T>
  simd::vector<T> apply(simd::vector<T> const& s, extend::score_place<T> const& place) const {
    return function_(s, place);
  }

 private:
  Function function_;
};

namespace options {

/// A score of the caller's with its derivative by the logit, another generic function of logits and place: for calls
/// that give gradients.
///
///     auto const squared = score_with_slope([](auto s, auto const&) { return s * abs(s); },
///                                           [](auto s, auto const&) { return 2.f * abs(s); });
template <class Function, class Slope>
class score_with_slope : public score<Function> {
 public:
  constexpr score_with_slope(Function function, Slope derivative)
      : score<Function>(std::move(function)), derivative_(std::move(derivative)) {}

  template <class T>
  simd::vector<T> slope(simd::vector<T> const& s, extend::score_place<T> const& place) const {
    return derivative_(s, place);
  }

 private:
  Slope derivative_;
};

}  // namespace options

namespace detail {

template <class S, class T>
ATTEND_INLINE auto bind_score(S const& score, tile_rows<T> const& rows, key_range range) {
  if constexpr (requires { score.bind(rows, range); })
    return score.bind(rows, range);
  else
    return [&score](simd::vector<T> const& s, score_place<T> const& place)
               ATTEND_INLINE_LAMBDA { return score.apply(s, place); };
}

}  // namespace detail
}  // namespace attend::inline ATTEND_TARGET
