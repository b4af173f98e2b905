// SPDX-License-Identifier: BSD-3-Clause
// Products of fours: the emulation of Arm's BFMMLA, and the instruction where code is compiled for it, against its
// definition in integers, bit for bit: numbers of all sizes, cancelling sums, subnormal and infinite ones, NaN.
#include <attend/core/arithmetic_mode.hpp>
#include <attend/simd/four_products.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace attend {
namespace {

constexpr float infinite = std::numeric_limits<float>::infinity();

/// magnitude * 2^exponent, rounded to odd, where any of its bits below the last one that fits is a 1.
float rounded_to_odd(bool negative, std::uint64_t magnitude, int exponent) {
  constexpr std::uint64_t end = 1u << 24;
  for (; magnitude >= end; ++exponent) magnitude = magnitude >> 1 | (magnitude & 1);
  double const size = std::ldexp(static_cast<double>(magnitude), exponent);
  float const rounded = size < 0x1p-126 ? 0.0f : size >= 0x1p128 ? infinite : static_cast<float>(size);
  return negative ? -rounded : rounded;
}

float product(float x, float y) {
  float const exact = x * y;
  if (!std::isfinite(x) || !std::isfinite(y)) return exact;
  int of_x = 0, of_y = 0;
  auto const whole = [](float f, int& exponent) {
    return static_cast<std::uint64_t>(std::abs(std::ldexp(std::frexp(f, &exponent), 8)));
  };
  std::uint64_t const a = whole(x, of_x), b = whole(y, of_y);
  return rounded_to_odd(std::signbit(x) != std::signbit(y), a * b, of_x + of_y - 16);
}

float sum(float x, float y) {
  if (!std::isfinite(x) || !std::isfinite(y) || x == 0 || y == 0) return x + y;
  if (std::abs(x) < std::abs(y)) std::swap(x, y);
  // In units of the last bit of x, times 2^-38. A number below them is replaced by one of them, of its sign.
  int of_x = 0, of_y = 0;
  auto const whole = [](float f, int& exponent) {
    return static_cast<std::int64_t>(std::ldexp(std::frexp(f, &exponent), 24));
  };
  std::int64_t const a = whole(x, of_x) * (std::int64_t{1} << 38), b = whole(y, of_y);
  int const apart = of_x - of_y;
  std::int64_t const total = a + (apart > 38 ? (b > 0 ? 1 : -1) : b * (std::int64_t{1} << (38 - apart)));
  return rounded_to_odd(total < 0, static_cast<std::uint64_t>(std::abs(total)), of_x - 24 - 38);
}

float widened(std::uint16_t bits) {
  float const x = std::bit_cast<float>(std::uint32_t{bits} << 16);
  return std::abs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x;
}

std::uint32_t bits_of(float x) { return std::isnan(x) ? 0x7fc00000u : std::bit_cast<std::uint32_t>(x); }

/// Numbers whose exponents are within `spread` of `exponent`.
struct numbers {
  std::mt19937 generator;
  int exponent, spread;

  std::uint32_t next() {
    int const e = exponent + static_cast<int>(generator() % static_cast<unsigned>(2 * spread + 1)) - spread;
    return (generator() & 0x807fffffu) | static_cast<std::uint32_t>(std::clamp(e, 0, 255)) << 23;
  }
};

template <class Fours>
void expect_bits_of_definition(numbers any) {
  constexpr int lanes = simd::width<float>, columns = lanes / 2;
  std::uint16_t a[2][4], b[columns][4];
  for (auto& row : a)
    for (std::uint16_t& x : row) x = static_cast<std::uint16_t>(any.next() >> 16);
  for (auto& column : b)
    for (std::uint16_t& x : column) x = static_cast<std::uint16_t>(any.next() >> 16);
  alignas(64) float c[2][columns];
  for (auto& row : c)
    for (float& x : row) x = std::bit_cast<float>(any.next());

  typename Fours::factor of_a, of_b;
  Fours::read_rows(a[0], a[1], of_a);
  Fours::read_columns(b, of_b);
  simd::vector<float> total = simd::load(c[0]);
  {
    detail::arithmetic_mode const mode;
    Fours::multiply_add(of_a, of_b, total);
  }
  alignas(64) float got[2][columns];
  simd::store(got[0], total);
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < columns; ++j) {
      float expected = std::abs(c[i][j]) < 0x1p-126f ? std::copysign(0.0f, c[i][j]) : c[i][j];
      for (int k = 0; k < 4; k += 2) {
        auto const term = [&](int at) { return product(widened(a[i][at]), widened(b[j][at])); };
        expected = sum(expected, sum(term(k), term(k + 1)));
      }
      ASSERT_EQ(bits_of(got[i][j]), bits_of(expected)) << got[i][j] << " for " << expected;
    }
}

template <class Fours>
void expect_bits_of_definition() {
  for (unsigned seed = 0; seed < 400; ++seed)
    for (int const exponent : {127, 66, 64, 20, 188, 191, 250})
      for (int const spread : {0, 2, 8, 40, 130})
        ASSERT_NO_FATAL_FAILURE(expect_bits_of_definition<Fours>({std::mt19937(seed), exponent, spread}))
            << "seed " << seed << ", exponent " << exponent << ", spread " << spread;
}

TEST(FourProducts, OfTheEmulationHaveTheBitsOfTheDefinition) { expect_bits_of_definition<simd::emulated_fours>(); }

TEST(FourProducts, OfTheInstructionHaveTheBitsOfTheDefinition) {
#if defined(ATTEND_NEON_BFLOAT16)
  expect_bits_of_definition<simd::neon_fours>();
#else
  GTEST_SKIP() << "not compiled for Arm's BFMMLA";
#endif
}

// 1 + 2^-24 and 1 - 2^-30 are rounded to the odd neighbours of 1, and 1 + 2^-23 is a float.
TEST(FourProducts, RoundToOddNumbers) {
  EXPECT_EQ(sum(1, 0x1p-24f), 1 + 0x1p-23f);
  EXPECT_EQ(sum(1, -0x1p-30f), 1 - 0x1p-24f);
  EXPECT_EQ(sum(1, 0x1p-23f), 1 + 0x1p-23f);
  EXPECT_EQ(sum(-1, -0x1p-100f), -1 - 0x1p-23f);
  EXPECT_EQ(sum(0x1p-126f, -0x1.8p-126f), 0);
  EXPECT_EQ(product(0x1p100f, 0x1p28f), infinite);
}

}  // namespace
}  // namespace attend
