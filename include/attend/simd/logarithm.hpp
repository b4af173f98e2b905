// SPDX-License-Identifier: BSD-3-Clause
// log(x), and log(1 + x), exact to the last places also where x is small.
//
//   u = 1 + x, rounded, = 2^k m with m in [sqrt(1/2), sqrt(2));  s = (m - 1) / (m + 1)
//   log(1 + x) = k ln 2 + 2 s + s^3 p(s^2) + (x - (u - 1)) / u
//
// p is a minimax polynomial (relative error of the logarithm 8e-10 for float, 2e-18 for double before rounding); the
// last term gives back what rounding u has lost. log(x) has u = x, and nothing is lost.
//
// Error: 4 ulp, of log(x) for numbers of the normal range. A logarithm of 0 is -inf; below it, and for NaN, the result
// is NaN; infinity gives infinity.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "math.hpp"

namespace attend::inline ATTEND_TARGET::simd {

namespace detail {

template <class T>
struct logarithm;

template <>
struct logarithm<float> {
  static constexpr float coefficients[] = {0.666667767f, 0.399774954f, 0.298730784f};
  static constexpr std::int32_t square_root_of_half = 0x3f3504f3;  // its bits
};

template <>
struct logarithm<double> {
  static constexpr double coefficients[] = {0.66666666666667349014, 0.39999999999411067813, 0.28571428743266868685,
                                            0.22222198475625284895, 0.18183569756597502515, 0.15313902842924822627,
                                            0.14797511642590391157};
  static constexpr std::int64_t square_root_of_half = 0x3fe6a09e667f3bcd;
};

}  // namespace detail

namespace detail {

/// The logarithm of u, and `rest` added to it, where u is above 0 and finite.
template <class T>
ATTEND_INLINE vector<T> log_and_rest(vector<T> const& u, vector<T> const& rest) {
  using bits [[gnu::vector_size(sizeof(T) * width<T>)]] = position_t<T>;
  using real [[gnu::vector_size(sizeof(T) * width<T>)]] = T;
  vector<T> const one(T(1));
  bits const of_u = std::bit_cast<bits>(u);
  bits const power = (of_u - logarithm<T>::square_root_of_half) >> exponential<T>::mantissa_bits;
  auto const m = std::bit_cast<vector<T>>(bits(of_u - (power << exponential<T>::mantissa_bits)));
  auto const k = std::bit_cast<vector<T>>(real(__builtin_convertvector(power, real)));
  vector<T> const s = (m - one) / (m + one), square = s * s;
  vector<T> const tail = square * polynomial(logarithm<T>::coefficients, square);
  vector<T> const low = fused_multiply_add<T>(k, vector<T>(exponential<T>::ln_2_low), rest);
  vector<T> const near = as_computed<T>(fused_multiply_add<T>(s, tail, low) + (s + s));
  vector<T> const result = fused_multiply_add<T>(k, vector<T>(exponential<T>::ln_2_high), near);
  // Zero, infinity, negative numbers and NaN are not of the form 2^k m.
  vector<T> const zero(T(0)), infinite(infinity<T>), nan(std::numeric_limits<T>::quiet_NaN());
  vector<T> const special = select<T>(u == zero, -infinite, select<T>(u == infinite, u, nan));
  return select<T>((u > zero) & (u < infinite), result, special);
}

}  // namespace detail

template <class T>
ATTEND_INLINE vector<T> log(vector<T> const& x) {
  return detail::log_and_rest<T>(x, vector<T>(T(0)));
}

template <class T>
ATTEND_INLINE vector<T> log1p(vector<T> const& x) {
  vector<T> const one(T(1)), u = as_computed<T>(one + x);
  vector<T> const lost = x - as_computed<T>(u - one);
  return detail::log_and_rest<T>(u, lost / u);
}

}  // namespace attend::inline ATTEND_TARGET::simd
