// SPDX-License-Identifier: BSD-3-Clause
// Functions for a caller's own scores and masks: one generic lambda serves vectors, numbers, kernel and test.
#include <attend/policy/functions.hpp>
#include <attend/policy/mask/predicate.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace extend;

namespace {

TEST(Functions, OfNumbersAreTheStandardOnes) {
  for (double x : {-3.5, -0.25, 0.0, 1.0, 7.0}) {
    EXPECT_EQ(attend::extend::abs(x), std::abs(x));
    EXPECT_EQ(attend::extend::exp(x), std::exp(x));
    EXPECT_EQ(attend::extend::tanh(x), std::tanh(x));
    EXPECT_EQ(attend::extend::min(x, 0.5), std::min(x, 0.5));
    EXPECT_EQ(attend::extend::max(x, 0.5), std::max(x, 0.5));
    EXPECT_EQ(attend::extend::select(x > 0, x, -1.0), x > 0 ? x : -1.0);
  }
}

TEST(Functions, OfVectorsAreThoseOfTheirLanes) {
  constexpr int width = simd::width<float>;
  alignas(64) float lanes[width];
  for (int i = 0; i < width; ++i) lanes[i] = 0.75f * static_cast<float>(i) - 2;
  auto const expect_lanes = [&](simd::vector<float> const& got, auto const& of_number) {
    float results[width];
    got.store_unaligned(results);
    // The functions have up to 4 ulp, each of at most 2 unit roundoffs.
    for (int i = 0; i < width; ++i) {
      double const exact = of_number(lanes[i]);
      EXPECT_NEAR(results[i], exact, 8 * test::unit_roundoff<float>() * std::abs(exact));
    }
  };
  simd::vector<float> const x = simd::load(lanes), half(0.5f);
  expect_lanes(attend::extend::abs(x), [](double y) { return std::abs(y); });
  expect_lanes(attend::extend::exp(x), [](double y) { return std::exp(y); });
  expect_lanes(attend::extend::tanh(x), [](double y) { return std::tanh(y); });
  expect_lanes(attend::extend::min(x, half), [](double y) { return std::min(y, 0.5); });
  expect_lanes(attend::extend::max(x, half), [](double y) { return std::max(y, 0.5); });
  expect_lanes(attend::extend::select(x > half, x, half), [](double y) { return y > 0.5 ? y : 0.5; });
}

TEST(Functions, OfPositionsAreThoseOfTheirLanes) {
  constexpr int width = simd::width<float>;
  using lanes = simd::integers<float>;
  alignas(64) std::int32_t from[width], got[width];
  for (int i = 0; i < width; ++i) from[i] = 3 * i - 7;
  lanes const x(simd::load(from));
  auto const expect = [&](lanes const& result, auto const& of_number) {
    simd::store(got, result.lanes());
    for (int i = 0; i < width; ++i) EXPECT_EQ(got[i], of_number(from[i])) << i;
  };
  expect(attend::extend::abs(x), [](int y) { return std::abs(y); });
  expect(attend::extend::min(x, 2), [](int y) { return std::min(y, 2); });
  expect(attend::extend::max(x, -x), [](int y) { return std::max(y, -y); });
  expect(attend::extend::select(x % 2 == 0, x, 5), [](int y) { return y % 2 == 0 ? y : 5; });
}

TEST(Functions, MinAndMaxOfNaNAreNaN) {
  float const nan = std::numeric_limits<float>::quiet_NaN();
  for (auto const& [a, b] : {std::pair(nan, 1.f), std::pair(1.f, nan), std::pair(nan, nan)}) {
    EXPECT_TRUE(std::isnan(attend::extend::min(a, b)));
    EXPECT_TRUE(std::isnan(attend::extend::max(a, b)));
    for (auto const& got : {attend::extend::min(simd::vector<float>(a), simd::vector<float>(b)),
                            attend::extend::max(simd::vector<float>(a), simd::vector<float>(b))})
      EXPECT_FALSE(simd::any<float>(got == got));
  }
}

// What a user would write: the score once, for the kernel and for a check of it.
TEST(Functions, LetOneLambdaServeKernelAndDefinition) {
  auto const written = [](auto s, auto const& distance) {
    using attend::extend::abs, attend::extend::exp, attend::extend::max, attend::extend::min, attend::extend::select,
        attend::extend::tanh;
    using number = decltype(s);
    return select(distance > number(20), max(s, number(-1)), min(2.f * tanh(s), number(1))) + exp(-abs(distance));
  };
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 30, .keys = 70}, 1);
  reference::options with;
  with.scores = {
      [&](double s, reference::place const& at) { return written(s, static_cast<double>(at.position() - at.key)); }};
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, score([&](auto s, auto const& at) {
                                                 return written(s, at.query_position - at.key_position);
                                               })),
                           with));
}

}  // namespace
}  // namespace attend
