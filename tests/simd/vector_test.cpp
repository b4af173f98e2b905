// SPDX-License-Identifier: BSD-3-Clause
// The operations on vectors that attend does not take from xsimd as they are.
#include <attend/simd/vector.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace attend::simd {
using namespace extend;

namespace {

template <class T>
class Vector : public testing::Test {
 protected:
  static constexpr int lanes = width<T>;

  struct array {
    alignas(64) T lane[lanes];
  };
  static array stored(vector<T> const& x) {
    array result;
    store(result.lane, x);
    return result;
  }
  /// 1, 2, 3, ... times a factor.
  static vector<T> counting(T factor) {
    array result;
    for (int i = 0; i < lanes; ++i) result.lane[i] = factor * T(i + 1);
    return load(result.lane);
  }
};
using Reals = testing::Types<float, double>;
TYPED_TEST_SUITE(Vector, Reals);

TYPED_TEST(Vector, LoadsAndStoresEveryLane) {
  auto const result = this->stored(this->counting(2));
  for (int i = 0; i < this->lanes; ++i) EXPECT_EQ(result.lane[i], 2 * (i + 1));
}

TYPED_TEST(Vector, MultipliesAndAdds) {
  using T = TypeParam;
  auto const result = this->stored(fused_multiply_add<T>(this->counting(2), this->counting(-3), vector<T>(T(7))));
  for (int i = 0; i < this->lanes; ++i) EXPECT_EQ(result.lane[i], 7 - 6 * (i + 1) * (i + 1));
}

// Whether attend's own vectors round once is left to the compiler, which computes with constants before it chooses.
#if !defined(ATTEND_PORTABLE_VECTORS) && (defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__))
TYPED_TEST(Vector, RoundsAProductAndSumOnce) {
  using T = TypeParam;
  // (1 + e)^2 - (1 + 2 e) is e^2, which is lost where the product is rounded before the sum.
  T const e = std::numeric_limits<T>::epsilon();
  vector<T> const a(1 + e), c(-(1 + 2 * e));
  auto const result = this->stored(fused_multiply_add<T>(a, a, c));
  for (int i = 0; i < this->lanes; ++i) EXPECT_EQ(result.lane[i], e * e);
}
#endif

TYPED_TEST(Vector, MinimumAndMaximumKeepANaNOfTheirSecondOperand) {
  using T = TypeParam;
  T const nan = std::numeric_limits<T>::quiet_NaN();
  typename TestFixture::array x;
  for (int i = 0; i < this->lanes; ++i) x.lane[i] = i % 2 ? nan : T(i);
  vector<T> const three(T(3)), five(T(5));
  auto const smaller = this->stored(min<T>(three, load(x.lane))), larger = this->stored(max<T>(three, load(x.lane))),
             between = this->stored(clamp<T>(load(x.lane), three, five));
  for (int i = 0; i < this->lanes; ++i) {
    if (i % 2) {
      EXPECT_TRUE(std::isnan(smaller.lane[i])) << i;
      EXPECT_TRUE(std::isnan(larger.lane[i])) << i;
      EXPECT_TRUE(std::isnan(between.lane[i])) << i;
    } else {
      EXPECT_EQ(smaller.lane[i], std::min(i, 3)) << i;
      EXPECT_EQ(larger.lane[i], std::max(i, 3)) << i;
      EXPECT_EQ(between.lane[i], std::clamp(i, 3, 5)) << i;
    }
  }
}

TYPED_TEST(Vector, MinimumAndMaximumOrNaNKeepANaNOfEitherOperand) {
  using T = TypeParam;
  T const nan = std::numeric_limits<T>::quiet_NaN();
  typename TestFixture::array x;
  for (int i = 0; i < this->lanes; ++i) x.lane[i] = i % 2 ? nan : T(i);
  vector<T> const three(T(3));
  for (bool const second : {false, true}) {
    vector<T> const a = second ? three : load(x.lane), b = second ? load(x.lane) : three;
    auto const smaller = this->stored(min_or_nan<T>(a, b)), larger = this->stored(max_or_nan<T>(a, b));
    for (int i = 0; i < this->lanes; ++i) {
      EXPECT_EQ(std::isnan(smaller.lane[i]), i % 2 == 1) << i;
      EXPECT_EQ(std::isnan(larger.lane[i]), i % 2 == 1) << i;
      if (i % 2) continue;
      EXPECT_EQ(smaller.lane[i], std::min(i, 3)) << i;
      EXPECT_EQ(larger.lane[i], std::max(i, 3)) << i;
    }
  }
}

TYPED_TEST(Vector, IsReadAsLanesOfAnotherType) {
  using T = TypeParam;
  using integer = position_t<T>;
  alignas(64) integer bits[width<T>];
  store(bits, reinterpret<integer>(this->counting(T(0.75))));
  for (int i = 0; i < this->lanes; ++i) EXPECT_EQ(bits[i], std::bit_cast<integer>(T(0.75) * T(i + 1)));
  vector_mask<integer> const chosen = load(bits) > vector<integer>(std::bit_cast<integer>(T(1)));
  auto const result = this->stored(select(reinterpret_mask<T>(chosen), this->counting(1), vector<T>(T(-1))));
  for (int i = 0; i < this->lanes; ++i) EXPECT_EQ(result.lane[i], i == 0 ? -1 : i + 1);
}

TYPED_TEST(Vector, KnowsWhetherAnyOrAllLanesAreTrue) {
  using T = TypeParam;
  vector<T> const x = this->counting(1);
  for (int i = 0; i <= this->lanes; ++i) {
    vector_mask<T> const first = x <= vector<T>(T(i));
    EXPECT_EQ(any<T>(first), i > 0) << i;
    EXPECT_EQ(all<T>(first), i == this->lanes) << i;
    EXPECT_EQ(any<T>(!first), i < this->lanes) << i;
    EXPECT_EQ(all<T>(!first), i == 0) << i;
  }
}

}  // namespace
}  // namespace attend::simd
