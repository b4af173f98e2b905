// SPDX-License-Identifier: BSD-3-Clause
// Vectors: xsimd's batches on the instruction set that the translation unit is compiled for, and the few operations
// that its supported versions spell differently or lack. For targets on which not every supported version has batches
// of both float and double, simd/portable_vector.hpp takes xsimd's place.
#pragma once

#include <bit>
#include <concepts>

#include "../core/compiler.hpp"
#include "../core/types.hpp"

#if defined(__SSE2__) || (defined(__aarch64__) && !(defined(__ARM_FEATURE_SVE_BITS) && __ARM_FEATURE_SVE_BITS > 0))
#include <xsimd/xsimd.hpp>
#else
#include "portable_vector.hpp"
#define ATTEND_PORTABLE_VECTORS
#endif

// NEON's instructions for bfloat16, of Armv8.6-A and of compilers' option +bf16.
#if defined(__aarch64__) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC) && !defined(ATTEND_PORTABLE_VECTORS)
#define ATTEND_NEON_BFLOAT16
#endif

namespace attend::inline ATTEND_TARGET::simd {

#if defined(ATTEND_PORTABLE_VECTORS)
template <class T>
using vector = portable::batch<T>;
template <class T>
using vector_mask = portable::batch_bool<T>;
namespace detail {
namespace functions = portable::functions;
}
#else
namespace detail {
namespace functions = xsimd;
// xsimd has an architecture for AVX-512 without BW and DQ (Knights Landing), but never chooses it by default.
#if defined(__AVX512F__) && !(defined(__AVX512BW__) && defined(__AVX512DQ__))
using architecture = xsimd::avx512f;
#else
using architecture = xsimd::default_arch;
#endif
}  // namespace detail
template <class T>
using vector = xsimd::batch<T, detail::architecture>;
template <class T>
using vector_mask = xsimd::batch_bool<T, detail::architecture>;
#endif

/// Lanes of a vector of T.
template <class T>
inline constexpr int width = static_cast<int>(vector<T>::size);

template <class T>
ATTEND_INLINE vector<T> load(T const* aligned) {
  return vector<T>::load_aligned(aligned);
}

template <class T>
ATTEND_INLINE void store(T* aligned, vector<T> const& x) {
  x.store_aligned(aligned);
}

/// a * b + c, rounded once where the machine can. xsimd 8 has no fused form for AVX-512, and compilers differ in
/// whether they fuse its product and sum.
template <class T>
ATTEND_INLINE vector<T> fused_multiply_add(vector<T> const& a, vector<T> const& b, vector<T> const& c) {
#if defined(__AVX512F__)
  if constexpr (std::same_as<T, float>)
    return _mm512_fmadd_ps(a, b, c);
  else
    return _mm512_fmadd_pd(a, b, c);
#else
  return detail::functions::fma(a, b, c);
#endif
}

/// x * factor in the first `lanes` lanes, and x in the others. One instruction with AVX-512, where `lanes` is known at
/// compile time once loops are unrolled.
template <class T>
ATTEND_INLINE vector<T> multiply_lanes(vector<T> const& x, vector<T> const& factor, int lanes) {
  if (lanes >= width<T>) return x * factor;
#if defined(__AVX512F__)
  unsigned const mask = (1u << lanes) - 1;
  if constexpr (std::same_as<T, float>)
    return _mm512_mask_mul_ps(x, static_cast<__mmask16>(mask), x, factor);
  else
    return _mm512_mask_mul_pd(x, static_cast<__mmask8>(mask), x, factor);
#else
  alignas(64) T counted[width<T>];
  for (int lane = 0; lane < width<T>; ++lane) counted[lane] = static_cast<T>(lane);
  return detail::functions::select(vector<T>::load_aligned(counted) < vector<T>(static_cast<T>(lanes)), x * factor, x);
#endif
}

/// Keeps x in a register from here on. Otherwise compilers fold the load of x into each product that uses it, which is
/// several loads in place of one where several products do.
template <class T>
ATTEND_INLINE void keep_in_register([[maybe_unused]] vector<T>& x) {
#if !defined(ATTEND_PORTABLE_VECTORS)
  typename vector<T>::register_type held = x;
#if defined(__aarch64__)
  asm("" : "+w"(held));
#else
  asm("" : "+v"(held));
#endif
  x = held;
#endif
}

/// What stands before this is scheduled before what stands behind it. gcc for Arm otherwise moves all loads of a
/// register tile's step to its beginning, which leaves no registers for some of the sums.
ATTEND_INLINE void keep_order() {
#if defined(__aarch64__)
  asm volatile("");
#endif
}

/// Returns x and hides from the compiler how it was computed: a compiler that was allowed to reorder sums
/// (-fassociative-math) would otherwise simplify (x + large) - large to x.
template <class T>
ATTEND_INLINE vector<T> as_computed(vector<T> x) {
#if !defined(ATTEND_PORTABLE_VECTORS)
  keep_in_register(x);
#elif defined(__ASSOCIATIVE_MATH__)
  asm("" : "+m"(x));
#endif
  return x;
}

namespace detail {

#if !defined(ATTEND_PORTABLE_VECTORS)
// xsimd's own minimum and maximum differ from version to version in their result for NaN.
#if defined(__AVX512F__)
ATTEND_INLINE __m512 smaller(__m512 a, __m512 b) { return _mm512_min_ps(a, b); }
ATTEND_INLINE __m512d smaller(__m512d a, __m512d b) { return _mm512_min_pd(a, b); }
ATTEND_INLINE __m512 larger(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
ATTEND_INLINE __m512d larger(__m512d a, __m512d b) { return _mm512_max_pd(a, b); }
#elif defined(__AVX__)
ATTEND_INLINE __m256 smaller(__m256 a, __m256 b) { return _mm256_min_ps(a, b); }
ATTEND_INLINE __m256d smaller(__m256d a, __m256d b) { return _mm256_min_pd(a, b); }
ATTEND_INLINE __m256 larger(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
ATTEND_INLINE __m256d larger(__m256d a, __m256d b) { return _mm256_max_pd(a, b); }
#elif defined(__SSE2__)
ATTEND_INLINE __m128 smaller(__m128 a, __m128 b) { return _mm_min_ps(a, b); }
ATTEND_INLINE __m128d smaller(__m128d a, __m128d b) { return _mm_min_pd(a, b); }
ATTEND_INLINE __m128 larger(__m128 a, __m128 b) { return _mm_max_ps(a, b); }
ATTEND_INLINE __m128d larger(__m128d a, __m128d b) { return _mm_max_pd(a, b); }
#elif defined(__aarch64__)
ATTEND_INLINE float32x4_t smaller(float32x4_t a, float32x4_t b) { return vminq_f32(a, b); }
ATTEND_INLINE float64x2_t smaller(float64x2_t a, float64x2_t b) { return vminq_f64(a, b); }
ATTEND_INLINE float32x4_t larger(float32x4_t a, float32x4_t b) { return vmaxq_f32(a, b); }
ATTEND_INLINE float64x2_t larger(float64x2_t a, float64x2_t b) { return vmaxq_f64(a, b); }
#endif

template <class T>
using register_of = typename vector<T>::register_type;
#endif

}  // namespace detail

/// The smaller and the larger of two, lane by lane. If b is NaN, the result is NaN; if only a is NaN, x86's instruction
/// gives b. So an operand whose NaN must reach the result is the second one.
template <class T>
ATTEND_INLINE vector<T> min(vector<T> const& a, vector<T> const& b) {
#if !defined(ATTEND_PORTABLE_VECTORS)
  if constexpr (std::floating_point<T>) return detail::smaller(detail::register_of<T>(a), detail::register_of<T>(b));
#endif
  return detail::functions::min(a, b);
}
template <class T>
ATTEND_INLINE vector<T> max(vector<T> const& a, vector<T> const& b) {
#if !defined(ATTEND_PORTABLE_VECTORS)
  if constexpr (std::floating_point<T>) return detail::larger(detail::register_of<T>(a), detail::register_of<T>(b));
#endif
  return detail::functions::max(a, b);
}

/// x, but not below `least` and not above `most`; NaN stays NaN.
template <class T>
ATTEND_INLINE vector<T> clamp(vector<T> const& x, vector<T> const& least, vector<T> const& most) {
  return min(most, max(least, x));
}

/// yes where the condition holds, else no.
template <class T>
ATTEND_INLINE vector<T> select(vector_mask<T> const& condition, vector<T> const& yes, vector<T> const& no) {
  return detail::functions::select(condition, yes, no);
}

/// The smaller and the larger of two, and NaN where either is NaN.
template <class T>
ATTEND_INLINE vector<T> min_or_nan(vector<T> const& a, vector<T> const& b) {
  return select<T>(a == a, min<T>(a, b), a);
}
template <class T>
ATTEND_INLINE vector<T> max_or_nan(vector<T> const& a, vector<T> const& b) {
  return select<T>(a == a, max<T>(a, b), a);
}

template <class T>
ATTEND_INLINE vector<T> abs(vector<T> const& x) {
  return detail::functions::abs(x);
}

/// The same bits, read as lanes of another type of the same size.
template <class To, class From>
ATTEND_INLINE vector<To> reinterpret(vector<From> const& x) {
  static_assert(sizeof(To) == sizeof(From));
  return std::bit_cast<vector<To>>(x);
}

template <class To, class From>
ATTEND_INLINE vector_mask<To> reinterpret_mask(vector_mask<From> const& x) {
  static_assert(sizeof(To) == sizeof(From));
  return std::bit_cast<vector_mask<To>>(x);
}

template <class T>
ATTEND_INLINE bool any(vector_mask<T> const& mask) {
  return detail::functions::any(mask);
}

template <class T>
ATTEND_INLINE bool all(vector_mask<T> const& mask) {
  return detail::functions::all(mask);
}

}  // namespace attend::inline ATTEND_TARGET::simd
