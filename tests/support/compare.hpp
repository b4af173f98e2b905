// SPDX-License-Identifier: BSD-3-Clause
// How far a kernel may be from the exact result, and a comparison that says where it is not.
//
// Output rows are averages of values: their error is bounded by that of the weights and of the sums. With u the unit
// roundoff of the accumulation type, a dot product of D terms has an error of about sqrt(D) u times the product of
// norms; the exponential turns an absolute error of a logit into a relative one of a weight; the sum adds as much
// again. For normal data and D <= 576 that stays below 200 u times the largest value; 16-bit outputs add their own half
// ulp.
#pragma once

#include <gtest/gtest.h>

#include <attend/core/types.hpp>
#include <attend/simd/pair_products.hpp>
#include <cmath>

namespace attend::test {
using namespace extend;

template <class T>
double unit_roundoff() {
  if constexpr (std::same_as<T, double>) return 0x1p-53;
  if constexpr (std::same_as<T, float>) return 0x1p-24;
  if constexpr (std::same_as<T, half>) return 0x1p-11;
  return 0x1p-8;
}

/// Absolute error allowed for results of T whose values are of magnitude `largest`.
template <class T>
double tolerance(double largest) {
  double accumulated = 200 * unit_roundoff<accumulation_t<T>>() * largest;
  // A matrix unit multiplies values by weights that are rounded to bfloat16.
  if (std::same_as<T, bfloat16> && simd::uses_pair_products()) accumulated += unit_roundoff<bfloat16>() * largest;
  return std::same_as<T, accumulation_t<T>> ? accumulated : accumulated + unit_roundoff<T>() * largest;
}

/// got[i] is within `allowed` of expected[i], equal where infinite, NaN where NaN.
template <class Got, class Expected>
::testing::AssertionResult near(Got const& got, Expected const& expected, double allowed) {
  if (got.size() != expected.size())
    return ::testing::AssertionFailure() << "expected " << expected.size() << " elements, got " << got.size();
  for (std::size_t i = 0; i < got.size(); ++i) {
    double const a = static_cast<double>(got[i]), b = static_cast<double>(expected[i]);
    bool const same = std::isnan(b) ? std::isnan(a) : std::isinf(b) ? a == b : std::abs(a - b) <= allowed;
    if (!same)
      return ::testing::AssertionFailure()
             << "at " << i << ": expected " << b << " within " << allowed << ", got " << a;
  }
  return ::testing::AssertionSuccess();
}

}  // namespace attend::test
