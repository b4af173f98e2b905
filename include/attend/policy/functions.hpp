// SPDX-License-Identifier: BSD-3-Clause
// Functions for a caller's own scores and masks: the same names for numbers and for vectors of them, so that one
// generic lambda serves the kernel and a test of it.
//
//   abs(x)  exp(x)  tanh(x)  min(a, b)  max(a, b)  select(condition, yes, no)  lookup(table, index) (lookup.hpp)
//
// A NaN among the arguments of min and max is their result. Of positions in a mask, which are whole numbers, there are
// abs, min, max, select and lookup; the second of two may be a plain number.
#pragma once

#include <cmath>
#include <type_traits>

#include "../simd/math.hpp"
#include "lookup.hpp"

namespace attend::inline ATTEND_TARGET {

namespace extend {

using simd::abs;
using simd::exp;
using simd::select;
using simd::tanh;
using std::abs;
using std::exp;
using std::tanh;

template <class T>
ATTEND_INLINE simd::vector<T> min(simd::vector<T> const& a, simd::vector<T> const& b) {
  return simd::min_or_nan<T>(a, b);
}
template <class T>
ATTEND_INLINE simd::vector<T> max(simd::vector<T> const& a, simd::vector<T> const& b) {
  return simd::max_or_nan<T>(a, b);
}

template <class T>
ATTEND_INLINE simd::integers<T> abs(simd::integers<T> const& a) {
  return max(a, -a);
}
template <class T>
ATTEND_INLINE simd::integers<T> min(simd::integers<T> const& a, std::type_identity_t<simd::integers<T>> const& b) {
  return min(a, b);  // its own, which is no template
}
template <class T>
ATTEND_INLINE simd::integers<T> max(simd::integers<T> const& a, std::type_identity_t<simd::integers<T>> const& b) {
  return max(a, b);
}
template <class T>
ATTEND_INLINE simd::integers<T> select(typename simd::integers<T>::truth const& condition, simd::integers<T> const& yes,
                                       std::type_identity_t<simd::integers<T>> const& no) {
  return select(condition, yes, no);
}

template <class A, class B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr std::common_type_t<A, B> min(A a, B b) {
  return a <= b || a != a ? a : b;
}
template <class A, class B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr std::common_type_t<A, B> max(A a, B b) {
  return a >= b || a != a ? a : b;
}

template <class T>
  requires std::is_arithmetic_v<T>
constexpr T select(bool condition, T const& yes, T const& no) {
  return condition ? yes : no;
}

}  // namespace extend

}  // namespace attend::inline ATTEND_TARGET
