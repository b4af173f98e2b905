// Functions for a caller's own scores and masks: the same names for numbers and for vectors of them, so that one
// generic lambda serves the kernel and a test of it. They are xsimd's.
//
//   abs(x)  exp(x)  tanh(x)  min(a, b)  max(a, b)  select(condition, yes, no)
#pragma once

#include <type_traits>
#include <xsimd/xsimd.hpp>

#include "../core/target.hpp"

namespace attend::inline ATTEND_TARGET {

using xsimd::abs;
using xsimd::exp;
using xsimd::max;
using xsimd::min;
using xsimd::select;
using xsimd::tanh;

/// Of numbers: not all versions of xsimd have it.
template <class T>
  requires(std::is_arithmetic_v<T> && !requires(T const& x) { xsimd::select(true, x, x); })
constexpr T select(bool condition, T const& yes, T const& no) {
  return condition ? yes : no;
}

}  // namespace attend::inline ATTEND_TARGET
