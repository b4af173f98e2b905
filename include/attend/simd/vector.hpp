// Vectors: xsimd's batches on the instruction set that the translation unit is compiled for, and the few operations
// that its supported versions spell differently or lack.
#pragma once

#include <bit>
#include <xsimd/xsimd.hpp>

#include "../core/compiler.hpp"
#include "../core/types.hpp"

namespace attend::inline ATTEND_TARGET::simd {

template <class T>
using vector = xsimd::batch<T>;

template <class T>
using vector_mask = xsimd::batch_bool<T>;

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

/// a * b + c, rounded once where the machine can. xsimd 8 has no AVX-512 form of it, and what a compiler makes of its
/// product and sum differs.
template <class T>
ATTEND_INLINE vector<T> fused_multiply_add(vector<T> const& a, vector<T> const& b, vector<T> const& c) {
#if defined(__AVX512F__)
  if constexpr (std::same_as<T, float>)
    return _mm512_fmadd_ps(a, b, c);
  else
    return _mm512_fmadd_pd(a, b, c);
#else
  return xsimd::fma(a, b, c);
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
  return xsimd::select(vector<T>::load_aligned(counted) < vector<T>(static_cast<T>(lanes)), x * factor, x);
#endif
}

/// Keeps x in a register from here on. Compilers fold a load into each product that uses it: where several do, that is
/// several loads in place of one.
template <class T>
ATTEND_INLINE void keep_in_register(vector<T>& x) {
#if defined(__x86_64__) || defined(__i386__)
  typename vector<T>::register_type held = x;
  asm("" : "+v"(held));
  x = held;
#endif
}

/// The larger of two, lane by lane. If x is NaN the result is x, which x86's instruction keeps only for its second
/// operand.
template <class T>
ATTEND_INLINE vector<T> max_keeping(vector<T> const& bound, vector<T> const& x) {
  return xsimd::max(bound, x);
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
  return xsimd::any(mask);
}

template <class T>
ATTEND_INLINE bool all(vector_mask<T> const& mask) {
  return xsimd::all(mask);
}

}  // namespace attend::inline ATTEND_TARGET::simd
