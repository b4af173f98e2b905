// SPDX-License-Identifier: BSD-3-Clause
// Vectors for targets that xsimd does not support: the part of xsimd's interface that attend uses, built on the vector
// extensions of gcc and clang.
//
// Compilers turn operations on them into the target's vector instructions where it has any (Power's VSX, WebAssembly's
// SIMD128, SVE and RISC-V vectors of a length known at compile time), and into scalar instructions elsewhere: then
// results are the same, at the speed of scalar code.
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../core/compiler.hpp"
#include "../core/target.hpp"

// Operations that follow this pragma are computed as written, even where the compiler was allowed to reorder sums
// (-fassociative-math): clang defines no macro that tells whether it was.
#if defined(__clang__)
#define ATTEND_IN_ORDER _Pragma("clang fp reassociate(off)")
#else
#define ATTEND_IN_ORDER
#endif

namespace attend::inline ATTEND_TARGET::portable {

/// The length of a vector in bytes: the target's where it is known, else 16, which every vector extension supports.
#if defined(__ARM_FEATURE_SVE_BITS) && __ARM_FEATURE_SVE_BITS > 0
inline constexpr int vector_bytes = __ARM_FEATURE_SVE_BITS / 8;
#elif defined(__riscv_v_fixed_vlen) && __riscv_v_fixed_vlen > 0
inline constexpr int vector_bytes = __riscv_v_fixed_vlen / 8;
#else
inline constexpr int vector_bytes = 16;
#endif
static_assert(vector_bytes <= 64, "attend: memory is aligned for vectors of up to 512 bits");

/// A signed integer as wide as T.
template <class T>
using integer_of = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;

/// A truth in each lane: all bits set, or none.
template <class T>
class batch_bool {
 public:
  using register_type [[gnu::vector_size(vector_bytes)]] = integer_of<T>;
  static constexpr std::size_t size = static_cast<std::size_t>(vector_bytes) / sizeof(T);

  ATTEND_INLINE batch_bool() = default;
  ATTEND_INLINE batch_bool(register_type const& lanes) : lanes_(lanes) {}
  ATTEND_INLINE explicit batch_bool(bool truth) : lanes_(integer_of<T>(truth ? -1 : 0) - register_type{}) {}
  ATTEND_INLINE operator register_type() const { return lanes_; }

  ATTEND_INLINE bool get(std::size_t lane) const { return lanes_[lane] != 0; }
  ATTEND_INLINE void store_unaligned(bool* to) const {
    for (std::size_t lane = 0; lane < size; ++lane) to[lane] = lanes_[lane] != 0;
  }
  ATTEND_INLINE void store_aligned(bool* to) const { store_unaligned(to); }

  ATTEND_INLINE friend batch_bool operator!(batch_bool const& a) { return ~a.lanes_; }
  ATTEND_INLINE friend batch_bool operator~(batch_bool const& a) { return ~a.lanes_; }
  ATTEND_INLINE friend batch_bool operator&(batch_bool const& a, batch_bool const& b) { return a.lanes_ & b.lanes_; }
  ATTEND_INLINE friend batch_bool operator|(batch_bool const& a, batch_bool const& b) { return a.lanes_ | b.lanes_; }
  ATTEND_INLINE friend batch_bool operator^(batch_bool const& a, batch_bool const& b) { return a.lanes_ ^ b.lanes_; }
  ATTEND_INLINE friend batch_bool operator&&(batch_bool const& a, batch_bool const& b) { return a & b; }
  ATTEND_INLINE friend batch_bool operator||(batch_bool const& a, batch_bool const& b) { return a | b; }
  ATTEND_INLINE friend batch_bool operator==(batch_bool const& a, batch_bool const& b) { return ~(a ^ b); }
  ATTEND_INLINE friend batch_bool operator!=(batch_bool const& a, batch_bool const& b) { return a ^ b; }

 private:
  register_type lanes_;
};

template <class T>
class batch {
 public:
  using value_type = T;
  using batch_bool_type = batch_bool<T>;
  using register_type [[gnu::vector_size(vector_bytes)]] = T;
  static constexpr std::size_t size = static_cast<std::size_t>(vector_bytes) / sizeof(T);

  ATTEND_INLINE batch() = default;
  ATTEND_INLINE batch(register_type const& lanes) : lanes_(lanes) {}
  // Broadcasts the value by subtracting a vector of zeros, which keeps every value, the sign of a zero included.
  ATTEND_INLINE batch(T value) : lanes_(value - register_type{}) {}
  ATTEND_INLINE operator register_type() const { return lanes_; }

  ATTEND_INLINE static batch load_unaligned(T const* from) {
    batch result;
    std::memcpy(&result.lanes_, from, sizeof(register_type));
    return result;
  }
  ATTEND_INLINE static batch load_aligned(T const* from) {
    return load_unaligned(static_cast<T const*>(__builtin_assume_aligned(from, vector_bytes)));
  }
  ATTEND_INLINE void store_unaligned(T* to) const { std::memcpy(to, &lanes_, sizeof(register_type)); }
  ATTEND_INLINE void store_aligned(T* to) const {
    store_unaligned(static_cast<T*>(__builtin_assume_aligned(to, vector_bytes)));
  }
  template <class I>
  ATTEND_INLINE static batch gather(T const* table, batch<I> const& at) {
    batch result;
    for (std::size_t lane = 0; lane < size; ++lane) result.lanes_[lane] = table[at.get(lane)];
    return result;
  }
  ATTEND_INLINE T get(std::size_t lane) const { return lanes_[lane]; }

  ATTEND_INLINE friend batch operator+(batch const& a, batch const& b) { ATTEND_IN_ORDER return a.lanes_ + b.lanes_; }
  ATTEND_INLINE friend batch operator-(batch const& a, batch const& b) { ATTEND_IN_ORDER return a.lanes_ - b.lanes_; }
  ATTEND_INLINE friend batch operator*(batch const& a, batch const& b) { ATTEND_IN_ORDER return a.lanes_ * b.lanes_; }
  ATTEND_INLINE friend batch operator/(batch const& a, batch const& b) { ATTEND_IN_ORDER return a.lanes_ / b.lanes_; }
  ATTEND_INLINE friend batch operator-(batch const& a) { return -a.lanes_; }
  ATTEND_INLINE batch& operator+=(batch const& b) { return *this = *this + b; }
  ATTEND_INLINE batch& operator-=(batch const& b) { return *this = *this - b; }
  ATTEND_INLINE batch& operator*=(batch const& b) { return *this = *this * b; }
  ATTEND_INLINE batch& operator/=(batch const& b) { return *this = *this / b; }

  ATTEND_INLINE friend batch operator&(batch const& a, batch const& b) { return of_bits(a.bits() & b.bits()); }
  ATTEND_INLINE friend batch operator|(batch const& a, batch const& b) { return of_bits(a.bits() | b.bits()); }
  ATTEND_INLINE friend batch operator^(batch const& a, batch const& b) { return of_bits(a.bits() ^ b.bits()); }
  ATTEND_INLINE friend batch operator<<(batch const& a, int by) { return a.lanes_ << static_cast<T>(by); }
  ATTEND_INLINE friend batch operator>>(batch const& a, int by) { return a.lanes_ >> static_cast<T>(by); }

  ATTEND_INLINE friend batch_bool<T> operator==(batch const& a, batch const& b) { return truth(a.lanes_ == b.lanes_); }
  ATTEND_INLINE friend batch_bool<T> operator!=(batch const& a, batch const& b) { return truth(a.lanes_ != b.lanes_); }
  ATTEND_INLINE friend batch_bool<T> operator<(batch const& a, batch const& b) { return truth(a.lanes_ < b.lanes_); }
  ATTEND_INLINE friend batch_bool<T> operator<=(batch const& a, batch const& b) { return truth(a.lanes_ <= b.lanes_); }
  ATTEND_INLINE friend batch_bool<T> operator>(batch const& a, batch const& b) { return truth(a.lanes_ > b.lanes_); }
  ATTEND_INLINE friend batch_bool<T> operator>=(batch const& a, batch const& b) { return truth(a.lanes_ >= b.lanes_); }

 private:
  using bits_type = typename batch_bool<T>::register_type;

  ATTEND_INLINE bits_type bits() const { return reinterpret_cast<bits_type>(lanes_); }
  ATTEND_INLINE static batch of_bits(bits_type const& bits) { return reinterpret_cast<register_type>(bits); }
  // Compilers differ in the type of integer, of the same width, that a comparison of vectors has.
  template <class Lanes>
  ATTEND_INLINE static batch_bool<T> truth(Lanes const& lanes) {
    return reinterpret_cast<bits_type>(lanes);
  }

  register_type lanes_;
};

// For users' scores, which call sqrt and floor without a namespace, as they do with xsimd's vectors.
template <std::floating_point T>
ATTEND_INLINE batch<T> sqrt(batch<T> const& x) {
  typename batch<T>::register_type result;
  for (std::size_t lane = 0; lane < batch<T>::size; ++lane) result[lane] = std::sqrt(x.get(lane));
  return result;
}
template <std::floating_point T>
ATTEND_INLINE batch<T> floor(batch<T> const& x) {
  typename batch<T>::register_type result;
  for (std::size_t lane = 0; lane < batch<T>::size; ++lane) result[lane] = std::floor(x.get(lane));
  return result;
}

// The functions that simd/vector.hpp otherwise takes from xsimd. They have a namespace of their own, so that calls
// without a namespace find attend's functions of these names and not these.
namespace functions {

template <class T>
ATTEND_INLINE batch<T> fma(batch<T> const& a, batch<T> const& b, batch<T> const& c) {
  using lanes = typename batch<T>::register_type;
  return lanes(a) * lanes(b) + lanes(c);
}
template <class T>
ATTEND_INLINE batch<T> select(batch_bool<T> const& condition, batch<T> const& yes, batch<T> const& no) {
  // Chooses by bits, since the conditional operator on vectors does not compile for SVE with gcc 12.
  using lanes = typename batch<T>::register_type;
  using bits = typename batch_bool<T>::register_type;
  bits const chosen = condition;
  lanes const if_true = yes, if_false = no;
  return reinterpret_cast<lanes>((chosen & reinterpret_cast<bits>(if_true)) |
                                 (~chosen & reinterpret_cast<bits>(if_false)));
}
template <class T>
ATTEND_INLINE batch<T> min(batch<T> const& a, batch<T> const& b) {
  return select<T>(a < b, a, b);
}
template <class T>
ATTEND_INLINE batch<T> max(batch<T> const& a, batch<T> const& b) {
  return select<T>(a > b, a, b);
}
template <class T>
ATTEND_INLINE batch<T> abs(batch<T> const& x) {
  if constexpr (std::floating_point<T>) {
    batch<T> const sign(T(-0.0));
    return (x | sign) ^ sign;
  } else {
    return max<T>(x, -x);
  }
}
template <class T>
ATTEND_INLINE bool any(batch_bool<T> const& truths) {
  bool result = false;
  for (std::size_t lane = 0; lane < batch_bool<T>::size; ++lane) result |= truths.get(lane);
  return result;
}
template <class T>
ATTEND_INLINE bool all(batch_bool<T> const& truths) {
  return !any<T>(!truths);
}

}  // namespace functions

}  // namespace attend::inline ATTEND_TARGET::portable
