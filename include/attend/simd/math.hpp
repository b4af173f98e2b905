// SPDX-License-Identifier: BSD-3-Clause
// exp2, exp, tanh and the logistic sigmoid over vectors.
//
// exp2(x) = 2^n * p(x - n) with n the nearest integer: p is a minimax polynomial on [-1/2, 1/2] with p(0) = 1 exactly
// (degree 6 for float, 11 for double; relative error 2.6e-9 and 1.8e-17 before rounding). exp(x) takes n from x *
// log2(e) and reduces by ln 2 in two parts.
//
// Errors, against the exact function (the tests hold each to it over the whole range of its argument):
//   exp2, exp    2 ulp
//   sigmoid      4 ulp
//   tanh         4 ulp
// -inf gives exactly 0, +inf gives infinity, NaN gives NaN. Results below twice the smallest normal number are exactly
// 0, whatever the machine does with subnormal numbers: many processors take a hundred times as long for those.
#pragma once

#include "polynomial.hpp"

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "attend hides keys with infinities: compile without -ffast-math and -ffinite-math-only"
#endif

namespace attend::inline ATTEND_TARGET {

namespace extend {

/// log2(e), by which exponents of e are multiplied to become exponents of 2.
inline constexpr double log2_e = 1.4426950408889634074;

}  // namespace extend

namespace simd {
namespace detail {

template <class T>
struct exponential;

template <>
struct exponential<float> {
  static constexpr float exp2_coefficients[] = {1.0f,          0.69314721497f, 0.24022652783f, 0.055503105510f,
                                                0.0096176930f, 0.0013406644f,  0.000155946782f};
  // On [0, 1].
  static constexpr float coarse_exp2_coefficients[] = {1.0f, 0.69304484129f, 0.2412802130f, 0.052242472768f,
                                                       0.013426685706f};
  static constexpr float exp_coefficients[] = {1.0f,           1.00000004964f, 0.500000043438f, 0.166663654364f,
                                               0.04166477729f, 0.00837901116f, 0.00140612409f};
  static constexpr float ln_2_high = 0.693359375f, ln_2_low = -2.12194440e-4f;
  // 2^x is 0 for all x below zero_below; `least` is the smallest exponent of a normal number; from `most` on, 2^x is
  // infinite.
  static constexpr float zero_below = -160.0f, least = -126.0f, most = 128.0f;
  static constexpr float round_shift = 12582912.0f;  // 1.5 * 2^23: adding it leaves the integer in the lowest bits
  static constexpr int mantissa_bits = 23;
};

template <>
struct exponential<double> {
  static constexpr double exp2_coefficients[] = {1.0,
                                                 0.69314718055994569675,
                                                 0.24022650695910098007,
                                                 0.055504108664790394552,
                                                 0.0096181291076070023796,
                                                 0.0013333558153439964747,
                                                 0.0001540353044157213033,
                                                 0.000015252727385193868197,
                                                 1.3215442675329822143e-6,
                                                 1.0180647659234138888e-7,
                                                 7.0725704128144235096e-9,
                                                 4.078071929588336665e-10};
  static constexpr double exp_coefficients[] = {1.0,
                                                1.0000000000000005588,
                                                0.50000000000000055725,
                                                0.16666666666657302374,
                                                0.04166666666657363583,
                                                0.0083333333377154602736,
                                                0.0013888888932340796724,
                                                0.00019841261491392798694,
                                                0.000024801504511037080072,
                                                2.7564254929439037522e-6,
                                                2.7626296554217169468e-7,
                                                2.298131153883436429e-8};
  static constexpr double ln_2_high = 6.93145751953125e-1, ln_2_low = 1.42860682030941723212e-6;
  static constexpr double zero_below = -1090.0, least = -1022.0, most = 1024.0;
  static constexpr double round_shift = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int mantissa_bits = 52;
};

/// tanh(x) / x near zero, as a polynomial in x^2.
template <class T>
struct hyperbolic;

template <>
struct hyperbolic<float> {
  static constexpr float coefficients[] = {1.0f,           -0.333332837f, 0.133314847f,
                                           -0.0537429126f, 0.0206485709f, -0.00571468345f};
};

template <>
struct hyperbolic<double> {
  static constexpr double coefficients[] = {1.0,
                                            -0.3333333333333331359,
                                            0.13333333333329854845,
                                            -0.05396825396611517116,
                                            0.021869488470124310049,
                                            -0.0088632343330687535951,
                                            0.003592114187175947703,
                                            -0.0014557270691236186874,
                                            0.00058945625865375970828,
                                            -0.00023702341609633127263,
                                            0.000091577787761360889443,
                                            -0.000030205641522866801352,
                                            6.0501176742143362079e-6};
};

#if defined(__AVX512F__)
inline constexpr int value_factor = 1;
#else
inline constexpr int value_factor = 2;
#endif

/// 1 / 2^halvings.
template <class T>
constexpr T half_to(int halvings) {
  return halvings > 0 ? half_to<T>(halvings - 1) / 2 : T(1);
}

/// value_factor times the polynomial, prepared for scale_by_power, divided by 2^Halvings.
template <int Halvings = 0, class T, std::size_t Count>
ATTEND_INLINE vector<T> prepared_polynomial(T const (&coefficients)[Count], vector<T> const& x) {
  return simd::polynomial(coefficients, x, value_factor * half_to<T>(Halvings));
}

#if defined(__AVX512F__)

template <class T>
ATTEND_INLINE vector<T> nearest(vector<T> const& x) {
  return xsimd::nearbyint(x);
}

/// value * 2^whole, or 0 where that is below twice the smallest normal number. A masked-out lane takes no additional
/// time, even where its result would be subnormal; the comparison keeps lanes whose exponent is NaN.
template <int Halvings = 0, class T>
ATTEND_INLINE vector<T> scale_by_power(vector<T> const& value, vector<T> const& whole, vector<T> const& exponent) {
  constexpr T least = exponential<T>::least + 1 + Halvings;
  if constexpr (std::same_as<T, float>)
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(exponent, _mm512_set1_ps(least), _CMP_NLT_UQ), value, whole);
  else
    return _mm512_maskz_scalef_pd(_mm512_cmp_pd_mask(exponent, _mm512_set1_pd(least), _CMP_NLT_UQ), value, whole);
}

template <class T>
ATTEND_INLINE vector<T> bounded_exponent(vector<T> const& x) {
  return max(vector<T>(exponential<T>::zero_below), x);
}

#else

template <class T>
ATTEND_INLINE vector<T> nearest(vector<T> const& x) {
  vector<T> const shift(exponential<T>::round_shift);
  return as_computed<T>(as_computed<T>(x + shift) - shift);
}

/// value / 2 * 2^whole for whole in [least + 1, most], or 0 where that is below twice the smallest normal number. Half
/// of the power is a finite number even where the power is not, and a product, unlike a sum of exponents, keeps a NaN
/// with any payload.
template <int Halvings = 0, class T>
ATTEND_INLINE vector<T> scale_by_power(vector<T> const& value, vector<T> const& whole, vector<T> const& exponent) {
  // The lowest bits of `biased` are the biased exponent of half of the power.
  vector<T> const biased = whole + vector<T>(exponential<T>::round_shift + exponential<T>::most - 2);
  vector<T> const power = reinterpret<T>(reinterpret<position_t<T>>(biased) << exponential<T>::mantissa_bits);
  return select(exponent < vector<T>(exponential<T>::least + 1 + Halvings), vector<T>(T(0)), value * power);
}

template <class T>
ATTEND_INLINE vector<T> bounded_exponent(vector<T> const& x) {
  return clamp<T>(x, vector<T>(exponential<T>::least + 1), vector<T>(exponential<T>::most));
}

#endif

/// x - whole * ln 2, where that is small.
template <class T>
ATTEND_INLINE vector<T> less_powers_of_two(vector<T> const& x, vector<T> const& whole) {
  vector<T> const rest = fused_multiply_add(whole, vector<T>(-exponential<T>::ln_2_high), x);
  return fused_multiply_add(whole, vector<T>(-exponential<T>::ln_2_low), as_computed<T>(rest));
}

}  // namespace detail

/// 2^x / 2^Halvings, at the cost of 2^x, and without the rounding error of x - Halvings.
template <int Halvings, class T>
ATTEND_INLINE vector<T> halved_exp2(vector<T> const& x) {
  using detail::exponential;
#if defined(__AVX512DQ__)
  // x - nearest(x) in one instruction, which also gives 0 for infinities.
  vector<T> fraction;
  if constexpr (std::same_as<T, float>)
    fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  else
    fraction = _mm512_reduce_pd(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return detail::scale_by_power<Halvings>(
      detail::prepared_polynomial<Halvings>(exponential<T>::exp2_coefficients, fraction), x - fraction, x);
#else
  vector<T> const bounded = detail::bounded_exponent(x);
  vector<T> const whole = detail::nearest(bounded);
  vector<T> const value = detail::prepared_polynomial<Halvings>(exponential<T>::exp2_coefficients, bounded - whole);
  return detail::scale_by_power<Halvings>(value, whole, x);
#endif
}

/// The same with a relative error of 5e-6, for results that are rounded to 16 bits: with the integer below x, which
/// saves a subtraction where the processor scales by the integer below a number.
template <int Halvings>
ATTEND_INLINE vector<float> coarse_exp2(vector<float> const& x) {
  auto const& coefficients = detail::exponential<float>::coarse_exp2_coefficients;
#if defined(__AVX512DQ__)
  vector<float> const fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  return detail::scale_by_power<Halvings>(detail::prepared_polynomial<Halvings>(coefficients, fraction), x, x);
#else
  vector<float> const bounded = detail::bounded_exponent(x);
  vector<float> const whole = detail::nearest<float>(as_computed<float>(bounded - vector<float>(0.5f)));
  return detail::scale_by_power<Halvings>(detail::prepared_polynomial<Halvings>(coefficients, bounded - whole), whole,
                                          x);
#endif
}

/// 2^x.
template <class T>
ATTEND_INLINE vector<T> exp2(vector<T> const& x) {
  return halved_exp2<0>(x);
}

/// e^x.
template <class T>
ATTEND_INLINE vector<T> exp(vector<T> const& x) {
  using detail::exponential;
  vector<T> const exponent = x * vector<T>(T(log2_e));
  vector<T> const whole = detail::nearest(detail::bounded_exponent(exponent));
  vector<T> const bounded = clamp<T>(x, vector<T>(exponential<T>::zero_below), vector<T>(exponential<T>::most));
  vector<T> rest = detail::less_powers_of_two(bounded, whole);
  // Where the exponent was bounded, the rest has no meaning: it only must not be large.
  rest = clamp<T>(rest, vector<T>(T(-0.5)), vector<T>(T(0.5)));
  vector<T> const value = detail::prepared_polynomial(exponential<T>::exp_coefficients, rest);
  return detail::scale_by_power(value, whole, exponent);
}

/// 1 / (1 + e^-x).
template <class T>
ATTEND_INLINE vector<T> sigmoid(vector<T> const& x) {
  using detail::exponential;
  vector<T> const result = vector<T>(T(1)) / (vector<T>(T(1)) + exp(-x));
  return select(x < vector<T>((exponential<T>::least + 1) * T(1 / log2_e)), vector<T>(T(0)), result);
}

/// The hyperbolic tangent: near zero x times a minimax polynomial in x^2 (relative error 5e-9 for float, 4e-19 for
/// double), and else 1 - 2 / (e^2x + 1) of the magnitude.
template <class T>
ATTEND_INLINE vector<T> tanh(vector<T> const& x) {
  using detail::exponential;
  vector<T> const one(T(1)), two(T(2)), magnitude = abs(x);
  vector<T> const near = x * polynomial(detail::hyperbolic<T>::coefficients, x * x);
  auto const is_near = magnitude < vector<T>(T(0.625));
  if (all<T>(is_near)) return near;
  // From 20 on the result is 1, and up to there the exponential needs none of its bounds.
  vector<T> const doubled = two * min(vector<T>(T(20)), magnitude);
  vector<T> const whole = detail::nearest<T>(doubled * vector<T>(T(log2_e)));
  vector<T> const value =
      detail::prepared_polynomial(exponential<T>::exp_coefficients, detail::less_powers_of_two(doubled, whole));
  vector<T> const far = one - two / (detail::scale_by_power(value, whole, doubled) + one);
  return select<T>(is_near, near, select<T>(x < vector<T>(T(0)), -far, far));
}

}  // namespace simd
}  // namespace attend::inline ATTEND_TARGET
