// SPDX-License-Identifier: BSD-3-Clause
// Sine and cosine against the C library's in a wider type: dense angles of many turns, both sides of every eighth of a
// turn, large and infinite ones.
#include <attend/simd/trigonometry.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

namespace attend::simd {
using namespace extend;

namespace {

template <class T>
class Trigonometry : public testing::Test {
 protected:
  using exact = std::conditional_t<std::same_as<T, float>, double, long double>;
  static constexpr exact pi = std::numbers::pi_v<exact>;

  // The C library's, through a pointer: -funsafe-math-optimizations makes of a call an instruction that is less exact.
  using function = exact (*)(exact);
  static exact exact_sine(exact x) {
    function volatile library;
    if constexpr (std::same_as<T, float>)
      library = static_cast<function>(::sin);
    else
      library = static_cast<function>(::sinl);
    return library(x);
  }
  static exact exact_cosine(exact x) {
    function volatile library;
    if constexpr (std::same_as<T, float>)
      library = static_cast<function>(::cos);
    else
      library = static_cast<function>(::cosl);
    return library(x);
  }

  /// Errors are absolute: near a zero of the sine the angle's own last place is more.
  static void expect_close(std::pair<vector<T>, vector<T>> const& got, exact const* radians, exact bound) {
    T sine[width<T>], cosine[width<T>];
    got.first.store_unaligned(sine);
    got.second.store_unaligned(cosine);
    for (int lane = 0; lane < width<T>; ++lane) {
      ASSERT_NEAR(static_cast<double>(sine[lane] - exact_sine(radians[lane])), 0, static_cast<double>(bound))
          << radians[lane];
      ASSERT_NEAR(static_cast<double>(cosine[lane] - exact_cosine(radians[lane])), 0, static_cast<double>(bound))
          << radians[lane];
    }
  }
};
using Reals = testing::Types<float, double>;
TYPED_TEST_SUITE(Trigonometry, Reals);

TYPED_TEST(Trigonometry, OfRadiansIsWithinOneRounding) {
  using T = TypeParam;
  for (T scale : {T(1e-6), T(1), T(30), T(1000), T(100000), T(1e6), T(1e9)})
    for (int i = -2000; i <= 2000; ++i) {
      T x[width<T>];
      typename TestFixture::exact exact[width<T>];
      for (int lane = 0; lane < width<T>; ++lane)
        exact[lane] = x[lane] = scale * (static_cast<T>(i) + static_cast<T>(lane) / width<T>) / 2000;
      this->expect_close(sincos<T>(vector<T>::load_unaligned(x)), exact, std::numeric_limits<T>::epsilon());
    }
}

TYPED_TEST(Trigonometry, OfRadiansIsContinuousAtEveryEighthOfATurn) {
  using T = TypeParam;
  for (int eighth = -64; eighth <= 64; ++eighth) {
    T const at = static_cast<T>(eighth * TestFixture::pi / 4);
    for (T const x : {std::nextafter(at, -infinity<T>), at, std::nextafter(at, infinity<T>)}) {
      typename TestFixture::exact exact[width<T>];
      std::fill_n(exact, width<T>, x);
      this->expect_close(sincos<T>(vector<T>(x)), exact, std::numeric_limits<T>::epsilon());
    }
  }
}

TYPED_TEST(Trigonometry, OfTurnsIsWithinOneRounding) {
  using T = TypeParam;
  // Turns of up to 2^20 whose fraction has few bits, so that the exact angle can be told.
  for (double const whole : {0.0, 1.0, 77.0, 1048576.0})
    for (int i = -512; i <= 512; ++i) {
      double turns[width<T>];
      typename TestFixture::exact exact[width<T>];
      for (int lane = 0; lane < width<T>; ++lane) {
        double const fraction = (i + static_cast<double>(lane) / width<T>) / 512;
        turns[lane] = whole + fraction;
        exact[lane] = 2 * TestFixture::pi * fraction;
      }
      this->expect_close(sincos_of_turns<T>(turns), exact, std::numeric_limits<T>::epsilon());
    }
}

TYPED_TEST(Trigonometry, QuartersOfATurnAreExact) {
  using T = TypeParam;
  T const sine[] = {0, 1, 0, -1}, cosine[] = {1, 0, -1, 0};
  for (int quarter = -8; quarter <= 8; ++quarter) {
    double turns[width<T>];
    std::fill_n(turns, width<T>, quarter / 4.0);
    auto const [s, c] = sincos_of_turns<T>(turns);
    EXPECT_TRUE(all<T>(s == vector<T>(sine[quarter & 3]))) << quarter;
    EXPECT_TRUE(all<T>(c == vector<T>(cosine[quarter & 3]))) << quarter;
  }
}

TYPED_TEST(Trigonometry, WhatIsNotFiniteHasNoSine) {
  using T = TypeParam;
  for (T const x : {infinity<T>, -infinity<T>, std::numeric_limits<T>::quiet_NaN()}) {
    auto const [s, c] = sincos<T>(vector<T>(x));
    EXPECT_FALSE(any<T>(s == s)) << x;
    EXPECT_FALSE(any<T>(c == c)) << x;
  }
}

}  // namespace
}  // namespace attend::simd
