// SPDX-License-Identifier: BSD-3-Clause
// What a mask is, and how masks combine.
//
// A mask says who may see whom. It refuses what does not fit by check(shape), and answers three questions:
//   bounds(rows)           a range of keys outside of which nobody in the tile sees anything
//   classify(rows, range)  none, some or all of the tile's pairs with these keys; `some` where it cannot know better
//   visible(place)         a truth for each lane
// so that hidden tiles are never computed and full ones run without masking code. A mask with data of its own may offer
// bind(rows, range), which returns what is asked instead of visible() for that tile and these keys.
//
// A mask that leaves gaps within its bounds may say where, so that nothing walks over them:
//   next(rows, from)       the first run of keys at or after `from` that somebody in the tile may see; empty: no more
//   grain(shape)           queries and heads that see alike, at whose multiples tiles are best cut
#pragma once

#include <numeric>

#include "../../core/options.hpp"
#include "../tile.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

template <class M, class T>
concept HasBounds = requires(M const& mask, tile_rows<T> const& rows) {
  { mask.bounds(rows) } -> std::same_as<key_range>;
};
template <class M, class T>
concept HasClassify = requires(M const& mask, tile_rows<T> const& rows, key_range range) {
  { mask.classify(rows, range) } -> std::same_as<visibility>;
};
/// A bool would convert to a truth for all lanes: whoever gives one has compared numbers.
template <class Truth, class T>
concept TruthOfLanes =
    std::convertible_to<Truth, typename simd::integers<T>::truth> && !std::same_as<std::remove_cvref_t<Truth>, bool>;
template <class M, class T>
concept HasVisible = requires(M const& mask, mask_place<T> const& place) {
  { mask.visible(place) } -> TruthOfLanes<T>;
} || requires(M const& mask, tile_rows<T> const& rows, key_range range, mask_place<T> const& place) {
  { mask.bind(rows, range)(place) } -> TruthOfLanes<T>;
};
template <class M, class T>
concept SaysRuns = requires(M const& mask, tile_rows<T> const& rows, index_t from) { mask.next(rows, from); };
template <class M, class T>
concept HasRunsOfKeys = requires(M const& mask, tile_rows<T> const& rows, index_t from) {
  { mask.next(rows, from) } -> std::same_as<key_range>;
};

/// Whether a mask has all members, beside logits of type T; an error names each one that is missing.
template <class M, class T>
consteval bool has_mask_members() {
  static_assert(HasCheck<M, problem_shape>, "attend: a mask needs check(shape) const");
  static_assert(HasBounds<M, T>, "attend: a mask needs bounds(rows) const, which gives a key_range");
  static_assert(HasClassify<M, T>, "attend: a mask needs classify(rows, range) const, which gives a visibility");
  static_assert(HasVisible<M, T>,
                "attend: a mask needs visible(place) const, which gives a truth for each lane, or bind(rows, range) "
                "const, which gives a function of the place");
  static_assert(!SaysRuns<M, T> || HasRunsOfKeys<M, T>,
                "attend: a mask's next(rows, from) const, which it may have, gives a key_range");
  return true;
}

}  // namespace detail

namespace extend {

/// A type is a mask, beside logits of type T, where it has the members that stand at the beginning of this file.
template <class M, class T = float>
concept Mask = detail::has_kind<option::mask, M> && detail::HasCheck<M, extend::problem_shape> &&
               detail::HasBounds<M, T> && detail::HasClassify<M, T> && detail::HasVisible<M, T>;

}  // namespace extend

namespace options {

/// Shows every query every key. It is the default.
///
///     softmax_attention(q, k, v, o, full{});
struct full {
  using option_kind = option::mask;

  void check(extend::problem_shape const&) const {}
  template <class T>
  extend::key_range bounds(extend::tile_rows<T> const& rows) const {
    return {0, rows.keys};
  }
  template <class T>
  extend::visibility classify(extend::tile_rows<T> const&, extend::key_range) const {
    return extend::visibility::all;
  }
  template <class T>
  typename simd::integers<T>::truth visible(extend::mask_place<T> const&) const {
    return typename simd::integers<T>::truth(true);
  }
};

}  // namespace options

namespace detail {

/// Binds the mask to this tile and these keys: the result maps a place to a truth for each lane.
template <class M, class T>
ATTEND_INLINE auto bind_mask(M const& mask, tile_rows<T> const& rows, key_range range) {
  if constexpr (requires { mask.bind(rows, range); })
    return mask.bind(rows, range);
  else
    return [&mask](mask_place<T> const& place) ATTEND_INLINE_LAMBDA { return mask.visible(place); };
}

/// A mask may tell its runs of keys one by one.
template <class M>
concept HasRuns = HasRunsOfKeys<M, float>;

/// Gives the first run of keys at or after `from` that some query of the tile may see; it is empty where there is none.
template <class M, class T>
key_range next_run(M const& mask, tile_rows<T> const& rows, index_t from) {
  if constexpr (HasRuns<M>)
    return mask.next(rows, from);
  else
    return intersection(mask.bounds(rows), {from, rows.keys});
}

template <class M>
tile_grain grain_of(M const& mask, problem_shape const& shape) {
  if constexpr (requires { mask.grain(shape); })
    return mask.grain(shape);
  else
    return {};
}

/// Gives the coarsest grain that cuts tiles where both grains do: the greatest common divisors.
inline tile_grain common_grain(tile_grain a, tile_grain b) {
  return {std::gcd(a.queries, b.queries), std::gcd(a.heads, b.heads)};
}

/// Asks for each pair, and gives what the answers are together: this serves masks that know no shortcut.
template <class T, class Visible>
visibility classify_pairs(tile_rows<T> const& rows, key_range range, Visible const& visible) {
  using truth = typename simd::integers<T>::truth;
  bool every = true, some = false;
  for (int lane = 0; lane < rows.count; lane += simd::width<T>) {
    auto const position = simd::load(rows.position + lane);
    // A few keys at a time: most tiles that are mixed show it at once.
    for (index_t first = range.first; first < range.last; first += 8) {
      truth each(true), one(false);
      for (index_t key = first; key < std::min(first + 8, range.last); ++key) {
        truth const seen = visible(mask_place<T>{position, key, rows, key, lane});
        each = each & seen;
        one = one | seen;
      }
      every = every && simd::all(each);
      some = some || simd::any(one);
      if (some && !every) return visibility::some;
    }
  }
  return every ? visibility::all : visibility::none;
}

/// Joins the answers of two masks where a pair is visible if both masks show it.
struct both_allow {
  static constexpr visibility decisive = visibility::none;  // from one mask, whatever the other says
  static constexpr bool leaves_gaps = false;                // where neither mask leaves any

  static key_range bounds(key_range a, key_range b) { return intersection(a, b); }
  static key_range run(key_range a, key_range b) { return intersection(a, b); }
  static visibility whole(visibility a, visibility b) { return std::min(a, b); }
  template <class Truth>
  ATTEND_INLINE static Truth lanes(Truth const& a, Truth const& b) {
    return a & b;
  }
};

/// Joins the answers of two masks where a pair is visible if at least one of them shows it.
struct either_allows {
  static constexpr visibility decisive = visibility::all;
  static constexpr bool leaves_gaps = true;

  static key_range bounds(key_range a, key_range b) { return hull(a, b); }
  static key_range run(key_range a, key_range b) { return first_run(a, b); }
  static visibility whole(visibility a, visibility b) { return std::max(a, b); }
  template <class Truth>
  ATTEND_INLINE static Truth lanes(Truth const& a, Truth const& b) {
    return a | b;
  }
};

}  // namespace detail

namespace extend {

/// Makes one mask of two.
template <class Join, class A, class B>
struct joined_masks {
  using option_kind = option::mask;
  A a;
  B b;

  void check(extend::problem_shape const& shape) const { a.check(shape), b.check(shape); }
  template <class T>
  extend::key_range bounds(extend::tile_rows<T> const& rows) const {
    return Join::bounds(a.bounds(rows), b.bounds(rows));
  }
  template <class T>
  extend::visibility classify(extend::tile_rows<T> const& rows, extend::key_range range) const {
    extend::visibility const first = a.classify(rows, range);
    return first == Join::decisive ? first : Join::whole(first, b.classify(rows, range));
  }
  template <class T>
  extend::key_range next(extend::tile_rows<T> const& rows, index_t from) const
    requires(Join::leaves_gaps || detail::HasRuns<A> || detail::HasRuns<B>)
  {
    for (;;) {
      extend::key_range const left = detail::next_run(a, rows, from), right = detail::next_run(b, rows, from);
      extend::key_range const run = Join::run(left, right);
      if (!run.empty() || left.empty() || right.empty()) return run;
      from = run.first;
    }
  }
  extend::tile_grain grain(extend::problem_shape const& shape) const {
    return detail::common_grain(detail::grain_of(a, shape), detail::grain_of(b, shape));
  }
  template <class T>
  auto bind(extend::tile_rows<T> const& rows, extend::key_range range) const {
    return [left = detail::bind_mask(a, rows, range),
            right = detail::bind_mask(b, rows, range)](extend::mask_place<T> const& place)
               ATTEND_INLINE_LAMBDA { return Join::lanes(left(place), right(place)); };
  }
};

template <class A, class B>
using mask_and = joined_masks<detail::both_allow, A, B>;
template <class A, class B>
using mask_or = joined_masks<detail::either_allows, A, B>;

/// Shows exactly the pairs that another mask hides.
template <class A>
struct mask_not {
  using option_kind = option::mask;
  A a;

  void check(extend::problem_shape const& shape) const { a.check(shape); }
  template <class T>
  extend::key_range bounds(extend::tile_rows<T> const& rows) const {
    return {0, rows.keys};
  }
  template <class T>
  extend::visibility classify(extend::tile_rows<T> const& rows, extend::key_range range) const {
    extend::visibility const inner = a.classify(rows, range);
    return inner == extend::visibility::none  ? extend::visibility::all
           : inner == extend::visibility::all ? extend::visibility::none
                                              : inner;
  }
  extend::tile_grain grain(extend::problem_shape const& shape) const { return detail::grain_of(a, shape); }
  template <class T>
  auto bind(extend::tile_rows<T> const& rows, extend::key_range range) const {
    return [inner = detail::bind_mask(a, rows, range)](extend::mask_place<T> const& place)
               ATTEND_INLINE_LAMBDA { return !inner(place); };
  }
};

}  // namespace extend

template <class A, class B>
  requires(detail::has_kind<option::mask, A> && detail::has_kind<option::mask, B>)
constexpr extend::mask_and<A, B> operator&(A const& a, B const& b) {
  static_assert(detail::has_mask_members<A, float>() && detail::has_mask_members<B, float>());
  return {a, b};
}
template <class A, class B>
  requires(detail::has_kind<option::mask, A> && detail::has_kind<option::mask, B>)
constexpr extend::mask_or<A, B> operator|(A const& a, B const& b) {
  static_assert(detail::has_mask_members<A, float>() && detail::has_mask_members<B, float>());
  return {a, b};
}
template <class A>
  requires detail::has_kind<option::mask, A>
constexpr extend::mask_not<A> operator!(A const& a) {
  static_assert(detail::has_mask_members<A, float>());
  return {a};
}

// Operators are looked up beside their operands.
namespace options {
using attend::operator&, attend::operator|, attend::operator!;
}
namespace grids {
using attend::operator&, attend::operator|, attend::operator!;
}
namespace systems {
using attend::operator&, attend::operator|, attend::operator!;
}
namespace extend {
using attend::operator&, attend::operator|, attend::operator!;
}

}  // namespace attend::inline ATTEND_TARGET
