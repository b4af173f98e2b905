// SPDX-License-Identifier: BSD-3-Clause
// Sine and cosine of angles in radians or in whole turns.
//
// An angle is reduced to a multiple of a quarter turn and a rest of at most an eighth, in doubles for either type, so
// that results are as exact for some thousand turns as near zero; the rest's sine and cosine are minimax polynomials
// (relative error 4e-9 for float, 4e-18 for double before rounding), and the number of quarters says which of the two
// is the angle's sine, and its sign. Radians are reduced by pi/2 in three parts, of which two have trailing zeros, so
// that their products with the number of quarters are exact.
//
// Errors: below 2^-23 for float and 2^-52 for double, for angles of up to 2^18 turns in radians; beyond, the C
// library's functions are called lane by lane. Infinities and NaN give NaN.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numbers>
#include <utility>

#include "math.hpp"

namespace attend::inline ATTEND_TARGET::simd {

namespace detail {

template <class T>
struct circular;

template <>
struct circular<float> {
  static constexpr float sine[] = {1.0f, -0.166666549f, 0.00833217585f, -0.000195169776f};
  static constexpr float cosine[] = {1.0f, -0.5f, 0.0416666468f, -0.00138873645f, 0.0000244380919f};
};

template <>
struct circular<double> {
  static constexpr double sine[] = {1.0,
                                    -0.16666666666666631859,
                                    0.0083333333333223698792,
                                    -0.00019841269829771136321,
                                    2.7557313678663457436e-6,
                                    -2.5050755961897683017e-8,
                                    1.5896666572209600505e-10};
  static constexpr double cosine[] = {1.0,
                                      -0.5,
                                      0.041666666666666599155,
                                      -0.0013888888888874065178,
                                      0.000024801587289443639039,
                                      -2.7557314340701037021e-7,
                                      2.087572162905336253e-9,
                                      -1.1359559596641865341e-11};
};

// pi/2: 33 bits, the next 33, and the rest.
inline constexpr double half_pi_high = 0x1.921fb544p+0, half_pi_middle = 0x1.0b4611a6p-34,
                        half_pi_low = 0x1.3198a2e037073p-69;

/// Beyond this number of quarter turns, its products with the parts of pi/2 are no longer exact.
inline constexpr double max_quarters = 0x1p20;

/// Angles as a whole number of quarter turns, of which only the lowest two bits matter, and a rest in radians.
template <class T>
struct reduced_angles {
  static constexpr int lanes = width<T>;

  alignas(64) double rest[array_size(lanes)];
  alignas(64) std::int64_t quarters[array_size(lanes)];

  ATTEND_INLINE void set(int lane, vector<double> const& quarters_shifted, vector<double> const& radians) {
    store(rest + lane, radians);
    store(quarters + lane, reinterpret<std::int64_t>(quarters_shifted));
  }

  ATTEND_INLINE std::pair<vector<T>, vector<T>> sine_and_cosine() const {
    using real [[gnu::vector_size(sizeof(T) * lanes)]] = T;
    using whole [[gnu::vector_size(sizeof(T) * lanes)]] = position_t<T>;
    using wide_real [[gnu::vector_size(sizeof(double) * lanes)]] = double;
    using wide_whole [[gnu::vector_size(sizeof(double) * lanes)]] = std::int64_t;
    wide_real wide_rest;
    wide_whole wide_quarters;
    std::memcpy(&wide_rest, rest, sizeof(wide_rest));
    std::memcpy(&wide_quarters, quarters, sizeof(wide_quarters));
    auto const x = std::bit_cast<vector<T>>(real(__builtin_convertvector(wide_rest, real)));
    whole const quarter = __builtin_convertvector(wide_quarters, whole);
    vector<T> const square = x * x;
    auto const sine = std::bit_cast<whole>(vector<T>(x * simd::polynomial(circular<T>::sine, square)));
    auto const cosine = std::bit_cast<whole>(simd::polynomial(circular<T>::cosine, square));
    // An odd number of quarters exchanges sine and cosine. Bit 1 of that number is the sign of the sine; bit 1 of that
    // number plus 1 is the sign of the cosine.
    whole const odd = -(quarter & 1);
    constexpr int to_sign = 8 * sizeof(T) - 2;
    whole const sine_sign = (quarter & 2) << to_sign, cosine_sign = ((quarter + 1) & 2) << to_sign;
    return {std::bit_cast<vector<T>>(whole(((cosine & odd) | (sine & ~odd)) ^ sine_sign)),
            std::bit_cast<vector<T>>(whole(((sine & odd) | (cosine & ~odd)) ^ cosine_sign))};
  }
};

/// The nearest whole number, in the lowest bits of a double; unshifted() makes it a number again.
ATTEND_INLINE vector<double> shifted_nearest(vector<double> const& x) {
  return as_computed<double>(x + vector<double>(exponential<double>::round_shift));
}
ATTEND_INLINE vector<double> unshifted(vector<double> const& x) {
  return as_computed<double>(x - vector<double>(exponential<double>::round_shift));
}

}  // namespace detail

/// Sine and cosine of 2 pi turns, for width<T> angles of at most 2^48 turns.
template <class T>
ATTEND_INLINE std::pair<vector<T>, vector<T>> sincos_of_turns(double const* turns) {
  detail::reduced_angles<T> angles;
  ATTEND_UNROLL for (int lane = 0; lane < width<T>; lane += width<double>) {
    vector<double> const quarters = vector<double>::load_unaligned(turns + lane) * vector<double>(4.0);
    vector<double> const nearest = detail::shifted_nearest(quarters);
    vector<double> const rest = quarters - detail::unshifted(nearest);
    angles.set(lane, nearest, rest * vector<double>(std::numbers::pi / 2));
  }
  return angles.sine_and_cosine();
}

namespace detail {

template <class T>
[[gnu::noinline]] std::pair<vector<T>, vector<T>> library_sincos(vector<T> const& x) {
  alignas(64) T sine[width<T>], cosine[width<T>];
  store(sine, x);
  for (int lane = 0; lane < width<T>; ++lane) {
    T const angle = sine[lane];
    sine[lane] = std::sin(angle);
    cosine[lane] = std::cos(angle);
  }
  return {load(sine), load(cosine)};
}

}  // namespace detail

/// Sine and cosine of x radians.
template <class T>
ATTEND_INLINE std::pair<vector<T>, vector<T>> sincos(vector<T> const& x) {
  constexpr T most(detail::max_quarters * (std::numbers::pi / 2));
  if (!all<T>(abs(x) < vector<T>(most))) return detail::library_sincos(x);
  alignas(64) T given[width<T>];
  alignas(64) double wide[width<T>];
  store(given, x);
  for (int lane = 0; lane < width<T>; ++lane) wide[lane] = given[lane];
  detail::reduced_angles<T> angles;
  ATTEND_UNROLL for (int lane = 0; lane < width<T>; lane += width<double>) {
    vector<double> rest = load(wide + lane);
    vector<double> const nearest = detail::shifted_nearest(rest * vector<double>(2 / std::numbers::pi));
    vector<double> const quarters = detail::unshifted(nearest);
    for (double const part : {detail::half_pi_high, detail::half_pi_middle, detail::half_pi_low})
      rest = as_computed<double>(fused_multiply_add<double>(quarters, vector<double>(-part), rest));
    angles.set(lane, nearest, rest);
  }
  return angles.sine_and_cosine();
}

}  // namespace attend::inline ATTEND_TARGET::simd
