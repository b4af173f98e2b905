// SPDX-License-Identifier: BSD-3-Clause
// exp2, exp, sigmoid and tanh against the exact functions: every binade of the argument, a dense sample of where
// results are finite, both sides of every boundary, and what is not a number.
#include <attend/simd/math.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <random>
#include <vector>

namespace attend::simd {
using namespace extend;

namespace {

/// What the exact function is computed in: wider than the type that is tested.
template <class T>
using exact_t = std::conditional_t<std::same_as<T, float>, double, long double>;

template <class T>
inline constexpr T smallest_normal = std::numeric_limits<T>::min();

/// function(x) for all arguments, each in some lane.
template <class T, class Function>
std::vector<T> apply(std::vector<T> arguments, Function const& function) {
  std::size_t const count = arguments.size();
  arguments.resize(static_cast<std::size_t>(round_up(static_cast<index_t>(count), width<T>)), T(0));
  std::vector<T> results(arguments.size());
  for (std::size_t i = 0; i < arguments.size(); i += width<T>)
    vector<T>(function(vector<T>::load_unaligned(&arguments[i]))).store_unaligned(&results[i]);
  results.resize(count);
  return results;
}

template <class T>
T one(T argument, vector<T> (*function)(vector<T> const&)) {
  return apply<T>({argument}, function)[0];
}

/// Distance in units of the last place of the exact result; the next binade's infinity counts as its first number.
template <class T>
double ulps(T got, exact_t<T> exact) {
  using limits = std::numeric_limits<T>;
  exact_t<T> const overflow = std::ldexp(exact_t<T>(1), limits::max_exponent);
  exact = std::clamp(exact, -overflow, overflow);
  exact_t<T> const value = std::isinf(got) ? std::copysign(overflow, exact_t<T>(got)) : exact_t<T>(got);
  int const exponent =
      std::clamp(exact == 0 ? 0 : std::ilogb(exact), limits::min_exponent - 1, limits::max_exponent - 1);
  return static_cast<double>(std::abs(value - exact) / std::ldexp(exact_t<T>(1), exponent - limits::digits + 1));
}

/// Random arguments of both signs in every binade, the subnormal ones included, and the ends of each.
template <class T>
std::vector<T> every_binade() {
  using limits = std::numeric_limits<T>;
  std::mt19937_64 engine(1);
  std::uniform_real_distribution<T> mantissa(1, 2);
  std::vector<T> arguments{0, -T(0), limits::max(), limits::lowest()};
  int const random = std::same_as<T, float> ? 100 : 20;
  for (int exponent = limits::min_exponent - limits::digits; exponent < limits::max_exponent; ++exponent)
    for (int i = 0; i < random; ++i) {
      T const significand = i == 0 ? T(1) : i == 1 ? std::nextafter(T(2), T(1)) : mantissa(engine);
      arguments.push_back(std::ldexp(significand, exponent));
      arguments.push_back(-arguments.back());
    }
  return arguments;
}

/// Evenly spread between, and the neighbours of all multiples of `grid`: where rounding to a whole number may go wrong.
template <class T>
std::vector<T> dense(T from, T to, T grid) {
  std::vector<T> arguments;
  int const count = std::same_as<T, float> ? 100000 : 30000;
  for (int i = 0; i <= count; ++i) arguments.push_back(from + (to - from) * static_cast<T>(i) / count);
  for (T i = std::floor(from / grid); i <= to / grid; ++i) {
    T const at = i * grid;
    for (T x : {at, std::nextafter(at, -infinity<T>), std::nextafter(at, infinity<T>)}) arguments.push_back(x);
  }
  return arguments;
}

/// Every result within `bound` ulps of the exact one; where the exact one is below `flushed_below`, it may be 0 too.
template <class T>
void expect_accurate(std::vector<T> const& arguments, vector<T> (*function)(vector<T> const&),
                     exact_t<T> (*exact)(exact_t<T>), double bound, T flushed_below) {
  std::vector<T> const results = apply<T>(arguments, function);
  double worst = -1;
  std::size_t at = 0;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    exact_t<T> const expected = exact(exact_t<T>(arguments[i]));
    if (results[i] == 0 && std::abs(expected) < flushed_below) continue;
    double const error =
        std::isnan(results[i]) ? std::numeric_limits<double>::infinity() : ulps<T>(results[i], expected);
    if (error > worst) worst = error, at = i;
  }
  ASSERT_GE(worst, 0) << "nothing was compared";
  EXPECT_LE(worst, bound) << std::hexfloat << "at " << arguments[at] << ": got " << results[at] << ", expected "
                          << static_cast<double>(exact(exact_t<T>(arguments[at])));
}

template <class T>
class Math : public testing::Test {
 protected:
  using exact_type = exact_t<T>;

  static exact_type exact_exp2(exact_type x) { return std::exp2(x); }
  static exact_type exact_exp(exact_type x) { return std::exp(x); }
  static exact_type exact_sigmoid(exact_type x) { return 1 / (1 + std::exp(-x)); }
  static exact_type exact_tanh(exact_type x) { return std::tanh(x); }

  static constexpr T most_exponent = std::numeric_limits<T>::max_exponent;
};
using Reals = testing::Types<float, double>;
TYPED_TEST_SUITE(Math, Reals);

TYPED_TEST(Math, Exp2IsWithinTwoUlps) {
  using T = TypeParam;
  T const most = TestFixture::most_exponent;
  expect_accurate<T>(every_binade<T>(), exp2<T>, this->exact_exp2, 2, 2 * smallest_normal<T>);
  expect_accurate<T>(dense<T>(-most - 60, most + 2, T(0.5)), exp2<T>, this->exact_exp2, 2, 2 * smallest_normal<T>);
  expect_accurate<T>(dense<T>(-3, 3, T(1) / 64), exp2<T>, this->exact_exp2, 2, 2 * smallest_normal<T>);
}

TYPED_TEST(Math, ExpIsWithinTwoUlps) {
  using T = TypeParam;
  T const most = TestFixture::most_exponent * std::numbers::ln2_v<T>;
  expect_accurate<T>(every_binade<T>(), exp<T>, this->exact_exp, 2, 2 * smallest_normal<T>);
  expect_accurate<T>(dense<T>(-most - 60, most + 2, std::numbers::ln2_v<T> / 2), exp<T>, this->exact_exp, 2,
                     2 * smallest_normal<T>);
  expect_accurate<T>(dense<T>(-3, 3, T(1) / 64), exp<T>, this->exact_exp, 2, 2 * smallest_normal<T>);
}

TYPED_TEST(Math, SigmoidIsWithinFourUlps) {
  using T = TypeParam;
  T const most = TestFixture::most_exponent * std::numbers::ln2_v<T>;
  T const low = -most - 60;
  std::vector<T> arguments = dense<T>(low, most, std::numbers::ln2_v<T> / 2);
  for (T x : every_binade<T>()) arguments.push_back(x);
  expect_accurate<T>(arguments, sigmoid<T>, this->exact_sigmoid, 4, 2 * smallest_normal<T>);
}

// All three grow with their argument: nothing but 0 up to some argument, nothing but normal numbers from there on.
TYPED_TEST(Math, ResultsBelowTheNormalRangeAreZero) {
  using T = TypeParam;
  T const most = TestFixture::most_exponent;
  std::vector<T> arguments = dense<T>(-most - 60, most + 2, T(0.5));
  for (T x : dense<T>(-most * std::numbers::ln2_v<T> - 60, 0, std::numbers::ln2_v<T> / 2)) arguments.push_back(x);
  for (T x : every_binade<T>()) arguments.push_back(x);
  for (auto* function : {exp2<T>, exp<T>, sigmoid<T>}) {
    std::vector<T> const results = apply<T>(arguments, function);
    int zeros = 0;
    for (std::size_t i = 0; i < results.size(); ++i) {
      zeros += results[i] == 0;
      ASSERT_TRUE(results[i] == 0 || results[i] >= smallest_normal<T>) << arguments[i] << " gives " << results[i];
    }
    EXPECT_GT(zeros, 1000);
  }
}

TYPED_TEST(Math, TanhIsWithinFourUlps) {
  using T = TypeParam;
  expect_accurate<T>(every_binade<T>(), tanh<T>, this->exact_tanh, 4, 0);
  expect_accurate<T>(dense<T>(-25, 25, T(1) / 16), tanh<T>, this->exact_tanh, 4, 0);
  expect_accurate<T>(dense<T>(-1, 1, T(1) / 256), tanh<T>, this->exact_tanh, 4, 0);
}

TYPED_TEST(Math, PowersOfTwoAreExact) {
  using T = TypeParam;
  for (int n = std::numeric_limits<T>::min_exponent; n < std::numeric_limits<T>::max_exponent; ++n)
    ASSERT_EQ(one<T>(T(n), exp2), std::ldexp(T(1), n)) << n;
}

TYPED_TEST(Math, ZeroGivesExactResults) {
  using T = TypeParam;
  for (T zero : {T(0), -T(0)}) {
    EXPECT_EQ(one<T>(zero, exp2), 1);
    EXPECT_EQ(one<T>(zero, exp), 1);
    EXPECT_EQ(one<T>(zero, sigmoid), T(0.5));
    EXPECT_EQ(one<T>(zero, tanh), 0);
    EXPECT_EQ(std::signbit(one<T>(zero, tanh)), std::signbit(zero));
  }
}

TYPED_TEST(Math, InfinitiesGiveExactResults) {
  using T = TypeParam;
  T const inf = infinity<T>;
  for (T low : {-inf, std::numeric_limits<T>::lowest(), T(-1e30), T(-2000)}) {
    EXPECT_EQ(one<T>(low, exp2), 0) << low;
    EXPECT_EQ(one<T>(low, exp), 0) << low;
    EXPECT_EQ(one<T>(low, sigmoid), 0) << low;
    EXPECT_EQ(one<T>(low, tanh), -1) << low;
  }
  for (T high : {inf, std::numeric_limits<T>::max(), T(1e30), T(2000)}) {
    EXPECT_EQ(one<T>(high, exp2), inf) << high;
    EXPECT_EQ(one<T>(high, exp), inf) << high;
    EXPECT_EQ(one<T>(high, sigmoid), 1) << high;
    EXPECT_EQ(one<T>(high, tanh), 1) << high;
  }
  EXPECT_EQ(one<T>(TestFixture::most_exponent, exp2), inf);
  EXPECT_FALSE(std::isinf(one<T>(std::nextafter(TestFixture::most_exponent, T(0)), exp2)));
}

TYPED_TEST(Math, NoResultIsNegative) {
  using T = TypeParam;
  std::vector<T> arguments = every_binade<T>();
  for (T x : dense<T>(-TestFixture::most_exponent - 60, 0, T(0.5))) arguments.push_back(x);
  arguments.push_back(-infinity<T>);
  for (auto* function : {exp2<T>, exp<T>, sigmoid<T>})
    for (T result : apply<T>(arguments, function)) ASSERT_FALSE(std::signbit(result));
}

TYPED_TEST(Math, NaNGivesNaNWhateverItsPayload) {
  using T = TypeParam;
  using bits = position_t<T>;
  bits const quiet = std::bit_cast<bits>(std::numeric_limits<T>::quiet_NaN());
  bits const exponent = std::bit_cast<bits>(infinity<T>);
  bits const sign = std::numeric_limits<bits>::min();
  std::vector<T> arguments;
  for (int bit = 0; bit < std::numeric_limits<T>::digits - 1; ++bit)
    for (bits base : {quiet, exponent, quiet | sign, exponent | sign}) {
      arguments.push_back(std::bit_cast<T>(base | (bits(1) << bit)));
      arguments.push_back(std::bit_cast<T>(base | ((bits(2) << bit) - 1)));
    }
  for (auto* function : {exp2<T>, exp<T>, sigmoid<T>, tanh<T>}) {
    std::vector<T> const results = apply<T>(arguments, function);
    for (std::size_t i = 0; i < results.size(); ++i)
      ASSERT_TRUE(std::isnan(results[i])) << std::hex << std::bit_cast<bits>(arguments[i]) << " gives " << results[i];
  }
}

TYPED_TEST(Math, LanesDoNotDisturbEachOther) {
  using T = TypeParam;
  T const special[] = {-infinity<T>, std::numeric_limits<T>::quiet_NaN(), infinity<T>, T(1e30), T(-1e30)};
  for (auto* function : {exp2<T>, exp<T>, sigmoid<T>, tanh<T>}) {
    T const expected = apply<T>(std::vector<T>(width<T>, T(0.75)), function)[0];
    for (T other : special)
      for (int lane = 0; lane < width<T>; ++lane) {
        std::vector<T> arguments(width<T>, T(0.75));
        arguments[static_cast<std::size_t>(lane)] = other;
        std::vector<T> const results = apply<T>(arguments, function);
        for (int i = 0; i < width<T>; ++i) {
          if (i == lane) continue;
          ASSERT_EQ(results[static_cast<std::size_t>(i)], expected) << other;
        }
      }
  }
}

TEST(CoarseExp2, IsAsAccurateAsItSays) {
  auto const coarse = [](vector<float> const& x) { return coarse_exp2<16>(x); };
  for (float const x : dense<float>(-108, 0, 1 / 256.0f)) {
    double const exact = std::ldexp(std::exp2(static_cast<double>(x)), -16);
    ASSERT_NEAR(static_cast<double>(apply<float>({x}, coarse)[0]), exact, 5e-6 * exact) << x;
  }
  // The largest weight is exact, and hidden keys have none.
  EXPECT_EQ(apply<float>({0}, coarse)[0], 0x1p-16f);
  EXPECT_EQ(apply<float>({-std::numeric_limits<float>::infinity()}, coarse)[0], 0);
  EXPECT_EQ(apply<float>({-110}, coarse)[0], 0);
  EXPECT_TRUE(std::isnan(apply<float>({std::numeric_limits<float>::quiet_NaN()}, coarse)[0]));
}

}  // namespace
}  // namespace attend::simd
