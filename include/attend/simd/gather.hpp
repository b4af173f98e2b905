// SPDX-License-Identifier: BSD-3-Clause
// Gathers lanes from anywhere in memory: R(table[at[lane]]), for indices as wide as R.
//
// Often the indices of all lanes are consecutive, or all the same: one load then serves all lanes, where a gather loads
// them one by one. Two comparisons recognize these cases.
#pragma once

#include <array>

#include "integers.hpp"

namespace attend::inline ATTEND_TARGET::simd {

/// Lanes of T, truncated towards zero to integers, which must be below 2^31 in magnitude.
template <std::floating_point T>
ATTEND_INLINE vector<position_t<T>> truncated(vector<T> const& x) {
  using real [[gnu::vector_size(sizeof(T) * width<T>)]] = T;
  using whole [[gnu::vector_size(sizeof(T) * width<T>)]] = position_t<T>;
  return std::bit_cast<vector<position_t<T>>>(whole(__builtin_convertvector(std::bit_cast<real>(x), whole)));
}

namespace detail {
template <std::integral I>
ATTEND_INLINE I first_lane(vector<I> const& x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(I) == 4)
    return _mm_cvtsi128_si32(_mm512_castsi512_si128(x));
  else
    return _mm_cvtsi128_si64(_mm512_castsi512_si128(x));
#else
  alignas(64) I values[width<I>];
  store(values, x);
  return values[0];
#endif
}
/// 0, 1, 2, ...
template <std::integral I>
ATTEND_INLINE vector<I> numbered() {
  alignas(64) static constexpr auto numbers = [] {
    std::array<I, static_cast<std::size_t>(width<I>)> result{};
    for (std::size_t i = 0; i < result.size(); ++i) result[i] = static_cast<I>(i);
    return result;
  }();
  return load(numbers.data());
}
}  // namespace detail

/// Entries of type R are gathered by one instruction where the machine has it; entries of other types are loaded and
/// converted one by one.
template <class R, class Entry, std::integral I>
ATTEND_INLINE vector<R> gather(Entry const* table, vector<I> const& at) {
  static_assert(sizeof(R) == sizeof(I));
  if constexpr (std::same_as<R, Entry>) {
    I const first = detail::first_lane(at);
    vector<I> const beyond = at - vector<I>(first);
    if (all<I>(beyond == vector<I>(I(0)))) return vector<R>(table[first]);
    if (all<I>(beyond == detail::numbered<I>())) return vector<R>::load_unaligned(table + first);
    return vector<R>::gather(table, at);
  } else {
    alignas(64) I index[width<I>];
    alignas(64) R found[width<I>];
    store(index, at);
    for (int lane = 0; lane < width<I>; ++lane) found[lane] = static_cast<R>(table[index[lane]]);
    return load(found);
  }
}

}  // namespace attend::inline ATTEND_TARGET::simd
