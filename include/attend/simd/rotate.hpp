// SPDX-License-Identifier: BSD-3-Clause
// Rotates pairs of channels of a row, each by an angle of its own:
//
//   y_a = x_a cos - x_b sin
//   y_b = x_b cos + x_a sin
//
// In halves, pair i is (i, pairs + i); interleaved, it is (2i, 2i + 1). Rows may be rotated in place. Elements are
// widened as they are loaded and narrowed as they are stored.
#pragma once

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

/// Rotates pairs (i, pairs + i). `cosine` and `sine` hold one number for each pair.
template <Element From, Element To>
void rotate_halves(From const* from, To* to, accumulation_t<From> const* cosine, accumulation_t<From> const* sine,
                   index_t pairs) {
  using A = accumulation_t<From>;
  static_assert(std::same_as<A, accumulation_t<To>>);
  index_t i = 0;
  for (; i + width<A> <= pairs; i += width<A>) {
    vector<A> const a = widen(from + i), b = widen(from + pairs + i);
    vector<A> const c = vector<A>::load_unaligned(cosine + i), s = vector<A>::load_unaligned(sine + i);
    narrow(to + i, fused_multiply_add<A>(a, c, -(b * s)));
    narrow(to + pairs + i, fused_multiply_add<A>(b, c, a * s));
  }
  if (index_t const rest = pairs - i; rest > 0) {
    vector<A> const a = widen_part(from + i, rest), b = widen_part(from + pairs + i, rest);
    vector<A> const c = widen_part(cosine + i, rest), s = widen_part(sine + i, rest);
    narrow_part(to + i, fused_multiply_add<A>(a, c, -(b * s)), rest);
    narrow_part(to + pairs + i, fused_multiply_add<A>(b, c, a * s), rest);
  }
}

/// Rotates pairs (2i, 2i + 1). `cosine` holds each pair's cosine twice, `sine` the negative of its sine and then the
/// sine: so y = x * cosine + exchanged * sine in all lanes, where `exchanged` is x with the two channels of each pair
/// swapped.
template <Element From, Element To>
void rotate_interleaved(From const* from, To* to, accumulation_t<From> const* cosine, accumulation_t<From> const* sine,
                        index_t pairs) {
  using A = accumulation_t<From>;
  static_assert(std::same_as<A, accumulation_t<To>>);
  static_assert(width<A> % 2 == 0);
  auto const rotate = [](vector<A> const& x, vector<A> const& c, vector<A> const& s) {
    vector<A> const exchanged = detail::swap_neighbours<A>(x, std::make_index_sequence<width<A>>{});
    return fused_multiply_add<A>(x, c, exchanged * s);
  };
  index_t i = 0;
  for (; i + width<A> <= 2 * pairs; i += width<A>)
    narrow(to + i, rotate(widen(from + i), vector<A>::load_unaligned(cosine + i), vector<A>::load_unaligned(sine + i)));
  if (index_t const rest = 2 * pairs - i; rest > 0)
    narrow_part(to + i, rotate(widen_part(from + i, rest), widen_part(cosine + i, rest), widen_part(sine + i, rest)),
                rest);
}

}  // namespace attend::inline ATTEND_TARGET::simd
