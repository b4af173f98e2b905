// SPDX-License-Identifier: BSD-3-Clause
// log(1 + x) and log(x) against the C library's in a wider type: every binade on both sides of zero, near -1, and what
// is not finite.
#include <attend/simd/logarithm.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace attend::simd {
using namespace extend;

namespace {

template <class T>
T one_log1p(T x) {
  T result[width<T>];
  log1p<T>(vector<T>(x)).store_unaligned(result);
  return result[0];
}

template <class T>
T one_log(T x) {
  T result[width<T>];
  log<T>(vector<T>(x)).store_unaligned(result);
  return result[0];
}

template <class T>
class Logarithm : public testing::Test {
 protected:
  using exact = std::conditional_t<std::same_as<T, float>, double, long double>;

  static void expect_close(T x) {
    exact const expected = std::log1p(exact(x));
    exact const unit = std::numeric_limits<T>::epsilon() * std::abs(expected);
    ASSERT_LE(static_cast<double>(std::abs(one_log1p(x) - expected) / unit), 4) << std::hexfloat << x;
  }
};
using Reals = testing::Types<float, double>;
TYPED_TEST_SUITE(Logarithm, Reals);

TYPED_TEST(Logarithm, IsWithinFourRoundings) {
  using T = TypeParam;
  for (int exponent = -60; exponent < std::numeric_limits<T>::max_exponent; ++exponent)
    for (int i = 0; i < 64; ++i) {
      T const x =
          std::ldexp(1 + static_cast<T>(i) / 64 + std::numeric_limits<T>::epsilon() * static_cast<T>(i), exponent);
      this->expect_close(x);
      if (x < 1) this->expect_close(-x);
    }
  for (T rest = T(0.5); rest > std::numeric_limits<T>::epsilon(); rest /= T(1.3)) this->expect_close(rest - 1);
}

TYPED_TEST(Logarithm, OfNumbersThemselves) {
  using T = TypeParam;
  using exact = std::conditional_t<std::same_as<T, float>, double, long double>;
  for (int exponent = std::numeric_limits<T>::min_exponent - 1; exponent < std::numeric_limits<T>::max_exponent;
       ++exponent)
    for (int i = 0; i < 64; ++i) {
      T const x = std::ldexp(1 + static_cast<T>(i) / 64, exponent);
      exact const expected = std::log(exact(x));
      exact const unit = std::numeric_limits<T>::epsilon() * std::abs(expected);
      ASSERT_LE(static_cast<double>(std::abs(one_log(x) - expected)), 4 * static_cast<double>(unit))
          << std::hexfloat << x;
    }
  EXPECT_EQ(one_log(T(0)), -infinity<T>);
  EXPECT_EQ(one_log(infinity<T>), infinity<T>);
  for (T const x : {T(-1), -infinity<T>, std::numeric_limits<T>::quiet_NaN()}) EXPECT_TRUE(std::isnan(one_log(x)));
}

TYPED_TEST(Logarithm, HasItsLimits) {
  using T = TypeParam;
  EXPECT_EQ(one_log1p(T(0)), 0);
  EXPECT_EQ(one_log1p(T(-1)), -infinity<T>);
  EXPECT_EQ(one_log1p(infinity<T>), infinity<T>);
  for (T const x : {T(-1.5), -infinity<T>, std::numeric_limits<T>::quiet_NaN()}) EXPECT_TRUE(std::isnan(one_log1p(x)));
}

}  // namespace
}  // namespace attend::simd
