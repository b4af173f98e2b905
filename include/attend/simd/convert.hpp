// SPDX-License-Identifier: BSD-3-Clause
// Widening loads and narrowing stores: 16-bit elements, or bytes, in memory, float lanes in registers; float and double
// pass through.
//
// A bfloat16 is the upper half of a float: widening is a shift, narrowing rounds to nearest even. Halves go through the
// machine's conversion where it has one (F16C, AVX-512, NEON); elsewhere widening rebiases the exponent, and narrowing
// is Eigen's scalar conversion.
#pragma once

#include <cstdint>
#include <cstring>

#include "vector.hpp"

namespace attend::inline ATTEND_TARGET::simd {

namespace detail {

template <int Lanes>
struct native {
  using signed8 [[gnu::vector_size(Lanes)]] = std::int8_t;
  using bits16 [[gnu::vector_size(2 * Lanes)]] = std::uint16_t;
  using bits32 [[gnu::vector_size(4 * Lanes)]] = std::uint32_t;
  using signed32 [[gnu::vector_size(4 * Lanes)]] = std::int32_t;
  using real [[gnu::vector_size(4 * Lanes)]] = float;
};

using lanes = native<width<float>>;

// gcc 12 compiles the portable conversion to five instructions.
ATTEND_INLINE lanes::bits32 load_bits(void const* from) {
#if defined(__AVX512F__)
  return std::bit_cast<lanes::bits32>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<__m256i const*>(from))));
#elif defined(__AVX2__)
  return std::bit_cast<lanes::bits32>(_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<__m128i const*>(from))));
#elif defined(__SSE2__) && !defined(__AVX__)
  return std::bit_cast<lanes::bits32>(
      _mm_unpacklo_epi16(_mm_loadl_epi64(static_cast<__m128i const*>(from)), _mm_setzero_si128()));
#else
  lanes::bits16 bits;
  std::memcpy(&bits, from, sizeof(bits));
  return __builtin_convertvector(bits, lanes::bits32);
#endif
}

// gcc 12 compiles the portable conversion to several instructions for AVX-512, and element by element otherwise.
ATTEND_INLINE vector<float> widen_bytes(std::int8_t const* from) {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<__m128i const*>(from))));
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<__m128i const*>(from))));
#elif defined(__SSE2__) && !defined(__AVX__)
  int four;
  std::memcpy(&four, from, sizeof(four));
  __m128i const bytes = _mm_cvtsi32_si128(four), doubled = _mm_unpacklo_epi8(bytes, bytes);
  return _mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(doubled, doubled), 24));
#else
  lanes::signed8 bytes;
  std::memcpy(&bytes, from, sizeof(bytes));
  lanes::signed32 const whole = __builtin_convertvector(bytes, lanes::signed32);
  return std::bit_cast<vector<float>>(lanes::real(__builtin_convertvector(whole, lanes::real)));
#endif
}

ATTEND_INLINE void store_bits(void* to, lanes::bits32 const& bits) {
  lanes::bits16 const narrow = __builtin_convertvector(bits, lanes::bits16);
  std::memcpy(to, &narrow, sizeof(narrow));
}

ATTEND_INLINE vector<float> widen_half(void const* from) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<__m256i const*>(from)));
#elif defined(__F16C__) && defined(__AVX__)
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<__m128i const*>(from)));
#elif defined(__aarch64__) && !defined(ATTEND_PORTABLE_VECTORS)
  return vcvt_f32_f16(vld1_f16(static_cast<__fp16 const*>(from)));
#else
  lanes::bits32 const bits = load_bits(from);
  // Exponent and mantissa move to a float's place; 112 is the difference of the biases (127 - 15). A subnormal half is
  // its mantissa beside an exponent of -14, less 2^-14: no number in between is a subnormal float, which would count as
  // zero.
  lanes::bits32 const magnitude = (bits & 0x7fffu) << 13;
  lanes::real const normal = std::bit_cast<lanes::real>(magnitude + (112u << 23));
  lanes::real const subnormal = std::bit_cast<lanes::real>(magnitude + (113u << 23)) - 0x1p-14f;
  lanes::real const value = magnitude < (1u << 23) ? subnormal : normal;
  lanes::bits32 const special = std::bit_cast<lanes::bits32>(magnitude >= (0x7c00u << 13));
  lanes::bits32 const sign = (bits & 0x8000u) << 16;
  lanes::bits32 const result = std::bit_cast<lanes::bits32>(value) | (special & 0x7f800000u) | sign;
  return std::bit_cast<vector<float>>(result);
#endif
}

// A template, since Eigen's type may not be defined where this header is read.
template <std::same_as<half> T>
ATTEND_INLINE void narrow_half(T* to, vector<float> const& x) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__) && defined(__AVX__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__) && !defined(ATTEND_PORTABLE_VECTORS)
  vst1_f16(reinterpret_cast<__fp16*>(to), vcvt_f16_f32(x));
#else
  float values[width<float>];
  x.store_unaligned(values);
  for (int lane = 0; lane < width<float>; ++lane) to[lane] = T(values[lane]);
#endif
}

ATTEND_INLINE void narrow_bfloat16(bfloat16* to, vector<float> const& x) {
  lanes::bits32 const bits = std::bit_cast<lanes::bits32>(x);
  lanes::bits32 const rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  // Rounding could carry a NaN's mantissa into infinity: a NaN is made quiet instead.
  lanes::bits32 const is_nan = std::bit_cast<lanes::bits32>((bits & 0x7fffffffu) > 0x7f800000u);
  store_bits(to, (rounded & ~is_nan) | (((bits >> 16) | 0x40u) & is_nan));
}

}  // namespace detail

/// Loads a vector of elements from `from` (any alignment) and widens them to the accumulation type.
template <Element T>
ATTEND_INLINE vector<accumulation_t<T>> widen(T const* from) {
  if constexpr (std::same_as<T, half>)
    return detail::widen_half(from);
  else if constexpr (std::same_as<T, bfloat16>)
    return std::bit_cast<vector<float>>(detail::lanes::bits32(detail::load_bits(from) << 16));
  else
    return vector<T>::load_unaligned(from);
}

/// The same, also for elements of type bool, which become 0 and 1.
template <class A, class T>
ATTEND_INLINE vector<A> widen_to(T const* from) {
  if constexpr (std::same_as<T, bool> && std::same_as<A, float>) {
    return detail::widen_bytes(reinterpret_cast<std::int8_t const*>(from));
  } else if constexpr (std::same_as<T, bool>) {
    using bytes [[gnu::vector_size(width<A>)]] = std::uint8_t;
    using lanes [[gnu::vector_size(sizeof(A) * width<A>)]] = A;
    bytes truths;
    std::memcpy(&truths, from, sizeof(truths));
    return std::bit_cast<vector<A>>(lanes(__builtin_convertvector(truths, lanes)));
  } else {
    return widen(from);
  }
}

/// Stores the lanes of a vector as elements to `to` (any alignment), rounded to nearest even.
template <Element T>
ATTEND_INLINE void narrow(T* to, vector<accumulation_t<T>> const& x) {
  if constexpr (std::same_as<T, half>)
    detail::narrow_half(to, x);
  else if constexpr (std::same_as<T, bfloat16>)
    detail::narrow_bfloat16(to, x);
  else
    x.store_unaligned(to);
}

/// Loads and widens the first `count` < width elements; the other lanes are 0. Memory past these elements is not read.
template <class A, class T>
ATTEND_INLINE vector<A> widen_part_to(T const* from, index_t count) {
  T part[width<A>]{};
  std::memcpy(static_cast<void*>(part), from, static_cast<std::size_t>(count) * sizeof(T));
  return widen_to<A>(part);
}
template <Element T>
ATTEND_INLINE vector<accumulation_t<T>> widen_part(T const* from, index_t count) {
  return widen_part_to<accumulation_t<T>>(from, count);
}

/// Stores the first `count` < width lanes as elements. Memory past these elements is not written.
template <Element T>
ATTEND_INLINE void narrow_part(T* to, vector<accumulation_t<T>> const& x, index_t count) {
  T part[width<accumulation_t<T>>];
  narrow(part, x);
  std::memcpy(static_cast<void*>(to), part, static_cast<std::size_t>(count) * sizeof(T));
}

/// Widens `count` elements.
template <Element T>
void widen_row(T const* from, accumulation_t<T>* to, index_t count) {
  constexpr index_t step = width<accumulation_t<T>>;
  index_t i = 0;
  for (; i + step <= count; i += step) widen(from + i).store_unaligned(to + i);
  for (; i < count; ++i) to[i] = static_cast<accumulation_t<T>>(from[i]);
}

/// Narrows `count` elements, rounded to nearest even.
template <Element T>
void narrow_row(accumulation_t<T> const* from, T* to, index_t count) {
  constexpr index_t step = width<accumulation_t<T>>;
  index_t i = 0;
  for (; i + step <= count; i += step) narrow(to + i, vector<accumulation_t<T>>::load_unaligned(from + i));
  if (i < count) narrow_part(to + i, widen_part(from + i, count - i), count - i);
}

}  // namespace attend::inline ATTEND_TARGET::simd
