// Functions for a caller's own scores and masks: the same names for numbers and for vectors of them, so that one
// generic lambda serves the kernel and a test of it.
//
//   abs(x)  exp(x)  tanh(x)  min(a, b)  max(a, b)  select(condition, yes, no)
//
// A NaN among the arguments of min and max is their result.
#pragma once

#include <cmath>
#include <type_traits>

#include "../simd/math.hpp"

namespace attend::inline ATTEND_TARGET {

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

template <class A, class B>
  requires(std::is_arithmetic_v<A>&& std::is_arithmetic_v<B>)
constexpr std::common_type_t<A, B> min(A a, B b) { return a <= b || a != a ? a : b; }
template <class A, class B>
  requires(std::is_arithmetic_v<A>&& std::is_arithmetic_v<B>)
constexpr std::common_type_t<A, B> max(A a, B b) { return a >= b || a != a ? a : b; }

template <class T>
  requires std::is_arithmetic_v<T>
constexpr T select(bool condition, T const& yes, T const& no) { return condition ? yes : no; }

}  // namespace attend::inline ATTEND_TARGET
