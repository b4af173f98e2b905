// SPDX-License-Identifier: BSD-3-Clause
// Rotates pairs of channels of a row, each by an angle of its own:
//
//   y_a = x_a cos - x_b sin
//   y_b = x_b cos + x_a sin
//
// In halves, pair i is (i, pairs + i); interleaved, it is (2i, 2i + 1). Rows may be rotated in place. Elements are
// widened as they are loaded and narrowed as they are stored.
#pragma once

#include <utility>

#include "convert.hpp"

namespace attend::inline ATTEND_TARGET::simd {

namespace detail {

template <class T, std::size_t... Lane>
ATTEND_INLINE vector<T> swap_neighbours(vector<T> const& x, std::index_sequence<Lane...>) {
  using native [[gnu::vector_size(sizeof(T) * sizeof...(Lane))]] = T;
  native const a = std::bit_cast<native>(x);
  return std::bit_cast<vector<T>>(native(__builtin_shufflevector(a, a, int(Lane ^ 1)...)));
}

}  // namespace detail

/// The numbers of cosines or sines from `from` on, of which a vector has `count`.
template <class A>
ATTEND_INLINE vector<A> turn_numbers(A const* from, index_t count) {
  return count == width<A> ? vector<A>::load_unaligned(from) : widen_part(from, count);
}

/// Rotates pairs (i, pairs + i); turn(i, count) gives cosines and sines of the pairs from i on.
template <Element From, Element To, class Turn>
ATTEND_INLINE void rotate_halves_by(From const* from, To* to, index_t pairs, Turn const& turn) {
  using A = accumulation_t<From>;
  static_assert(std::same_as<A, accumulation_t<To>>);
  index_t i = 0;
  for (; i + width<A> <= pairs; i += width<A>) {
    vector<A> const a = widen(from + i), b = widen(from + pairs + i);
    auto const [c, s] = turn(i, index_t{width<A>});
    narrow(to + i, fused_multiply_add<A>(a, c, -(b * s)));
    narrow(to + pairs + i, fused_multiply_add<A>(b, c, a * s));
  }
  if (index_t const rest = pairs - i; rest > 0) {
    vector<A> const a = widen_part(from + i, rest), b = widen_part(from + pairs + i, rest);
    auto const [c, s] = turn(i, rest);
    narrow_part(to + i, fused_multiply_add<A>(a, c, -(b * s)), rest);
    narrow_part(to + pairs + i, fused_multiply_add<A>(b, c, a * s), rest);
  }
}

/// Rotates pairs (2i, 2i + 1); turn(c, count) gives the numbers of channels from c on, in which each pair's cosine
/// stands twice, and the negative of its sine before the sine: so y = x * cosine + exchanged * sine in all lanes, where
/// `exchanged` is x with the two channels of each pair swapped.
template <Element From, Element To, class Turn>
ATTEND_INLINE void rotate_interleaved_by(From const* from, To* to, index_t pairs, Turn const& turn) {
  using A = accumulation_t<From>;
  static_assert(std::same_as<A, accumulation_t<To>>);
  static_assert(width<A> % 2 == 0);
  auto const rotate = [](vector<A> const& x, auto const& by) {
    vector<A> const exchanged = detail::swap_neighbours<A>(x, std::make_index_sequence<width<A>>{});
    return fused_multiply_add<A>(x, by.first, exchanged * by.second);
  };
  index_t i = 0;
  for (; i + width<A> <= 2 * pairs; i += width<A>) narrow(to + i, rotate(widen(from + i), turn(i, index_t{width<A>})));
  if (index_t const rest = 2 * pairs - i; rest > 0)
    narrow_part(to + i, rotate(widen_part(from + i, rest), turn(i, rest)), rest);
}

/// Rotates pairs (i, pairs + i). `cosine` and `sine` hold one number for each pair.
template <Element From, Element To>
void rotate_halves(From const* from, To* to, accumulation_t<From> const* cosine, accumulation_t<From> const* sine,
                   index_t pairs) {
  rotate_halves_by(from, to, pairs, [&](index_t i, index_t count) ATTEND_INLINE_LAMBDA {
    return std::pair(turn_numbers(cosine + i, count), turn_numbers(sine + i, count));
  });
}

/// Rotates pairs (2i, 2i + 1), with numbers for each channel, as above.
template <Element From, Element To>
void rotate_interleaved(From const* from, To* to, accumulation_t<From> const* cosine, accumulation_t<From> const* sine,
                        index_t pairs) {
  rotate_interleaved_by(from, to, pairs, [&](index_t i, index_t count) ATTEND_INLINE_LAMBDA {
    return std::pair(turn_numbers(cosine + i, count), turn_numbers(sine + i, count));
  });
}

}  // namespace attend::inline ATTEND_TARGET::simd
