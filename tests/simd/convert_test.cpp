// SPDX-License-Identifier: BSD-3-Clause
// Conversions: all 65536 halves and bfloat16s widened, and rounded to from every exact number, tie, and neighbour of a
// tie; against the formats' definitions and against Eigen's scalar conversions. Nothing outside of the part is touched.
#include <attend/simd/convert.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "simd/end_of_memory.hpp"

namespace attend::simd {
using namespace extend;

namespace {

template <class T>
struct format;
template <>
struct format<half> {
  static constexpr int mantissa_bits = 10, bias = 15;
};
template <>
struct format<bfloat16> {
  static constexpr int mantissa_bits = 7, bias = 127;
};

template <class T>
constexpr unsigned infinity_bits = 0x8000u - (1u << format<T>::mantissa_bits);

template <class T>
T from_bits(unsigned bits) {
  return std::bit_cast<T>(static_cast<std::uint16_t>(bits));
}

template <class T>
unsigned bits_of(T x) {
  return std::bit_cast<std::uint16_t>(x);
}

/// The number that 16 bits stand for, after the format's definition. That of infinity is the next power of two.
template <class T>
double magnitude(unsigned bits) {
  using f = format<T>;
  int const exponent = static_cast<int>((bits & 0x7fffu) >> f::mantissa_bits);
  int const mantissa = static_cast<int>(bits & ((1u << f::mantissa_bits) - 1));
  int const leading = exponent > 0 ? 1 << f::mantissa_bits : 0;
  return std::ldexp(leading + mantissa, std::max(exponent, 1) - f::bias - f::mantissa_bits);
}

template <class T>
double value(unsigned bits) {
  double const sign = bits & 0x8000u ? -1 : 1;
  if ((bits & 0x7fffu) > infinity_bits<T>) return std::nan("");
  return sign * ((bits & 0x7fffu) == infinity_bits<T> ? infinity<double> : magnitude<T>(bits));
}

template <class T>
class Convert : public testing::Test {};
using Narrow = testing::Types<half, bfloat16>;
TYPED_TEST_SUITE(Convert, Narrow);

TYPED_TEST(Convert, WidensEveryPattern) {
  using T = TypeParam;
  std::vector<T> all;
  for (unsigned bits = 0; bits < 0x10000u; ++bits) all.push_back(from_bits<T>(bits));
  for (unsigned first = 0; first < 0x10000u; first += width<float>) {
    float wide[width<float>];
    widen(&all[first]).store_unaligned(wide);
    for (unsigned lane = 0; lane < width<float>; ++lane) {
      double const expected = value<T>(first + lane);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(wide[lane])) << std::hex << first + lane;
        continue;
      }
      ASSERT_EQ(wide[lane], expected) << std::hex << first + lane;
      ASSERT_EQ(std::signbit(wide[lane]), std::signbit(expected)) << std::hex << first + lane;
      ASSERT_EQ(wide[lane], static_cast<float>(all[first + lane])) << std::hex << first + lane << " by Eigen";
    }
  }
}

/// Results of narrow for all numbers, each in some lane.
template <class T>
std::vector<T> narrowed(std::vector<float> numbers) {
  std::size_t const count = numbers.size();
  numbers.resize(static_cast<std::size_t>(round_up(static_cast<index_t>(count), width<float>)), 0.f);
  std::vector<T> result(numbers.size());
  for (std::size_t i = 0; i < numbers.size(); i += width<float>)
    narrow(&result[i], vector<float>::load_unaligned(&numbers[i]));
  result.resize(count);
  return result;
}

TYPED_TEST(Convert, RoundsToNearestAndTiesToEven) {
  using T = TypeParam;
  std::vector<float> numbers;
  std::vector<unsigned> expected;
  auto const expect = [&](double number, unsigned bits) {
    for (unsigned sign : {0u, 0x8000u}) {
      numbers.push_back(static_cast<float>(sign ? -number : number));
      ASSERT_EQ(std::abs(numbers.back()), number) << "not a float: not what the test means";
      expected.push_back(bits | sign);
    }
  };
  for (unsigned bits = 0; bits < infinity_bits<T>; ++bits) {
    double const exact = magnitude<T>(bits), tie = (exact + magnitude<T>(bits + 1)) / 2;
    expect(exact, bits);
    // Every tie is a float: also that between a subnormal bfloat16 and the next.
    float const middle = static_cast<float>(tie);
    expect(tie, bits + (bits & 1));
    expect(std::nextafter(middle, 0.f), bits);
    if (middle < std::numeric_limits<float>::max()) expect(std::nextafter(middle, infinity<float>), bits + 1);
  }
  std::vector<T> const results = narrowed<T>(numbers);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    ASSERT_EQ(bits_of(results[i]), expected[i]) << std::hexfloat << numbers[i];
    ASSERT_EQ(bits_of(static_cast<T>(numbers[i])), expected[i]) << std::hexfloat << numbers[i] << " by Eigen";
  }
}

TYPED_TEST(Convert, OverflowsToInfinity) {
  using T = TypeParam;
  float const inf = infinity<float>;
  std::vector<T> const results = narrowed<T>({inf, -inf, std::numeric_limits<float>::max(), -3.4e38f * 1.0001f});
  EXPECT_EQ(bits_of(results[0]), infinity_bits<T>);
  EXPECT_EQ(bits_of(results[1]), infinity_bits<T> | 0x8000u);
  EXPECT_EQ(bits_of(results[2]), infinity_bits<T>);
  EXPECT_EQ(bits_of(results[3]), infinity_bits<T> | 0x8000u);
  if (std::same_as<T, half>) {
    std::vector<T> const halves = narrowed<T>({65504.f, 65519.f, 65520.f, 65536.f, 1e10f});
    unsigned const expected[] = {0x7bff, 0x7bff, 0x7c00, 0x7c00, 0x7c00};
    for (std::size_t i = 0; i < halves.size(); ++i) EXPECT_EQ(bits_of(halves[i]), expected[i]) << i;
  }
}

TYPED_TEST(Convert, UnderflowsToZeroWithItsSign) {
  using T = TypeParam;
  float const smallest = std::numeric_limits<float>::denorm_min();
  std::vector<T> const results = narrowed<T>({0.f, -0.f, smallest, -smallest});
  for (int i = 0; i < 4; ++i) EXPECT_EQ(bits_of(results[static_cast<std::size_t>(i)]), i % 2 ? 0x8000u : 0u) << i;
}

TYPED_TEST(Convert, KeepsNaN) {
  using T = TypeParam;
  std::vector<float> numbers;
  for (std::uint32_t base : {0x7f800000u, 0x7fc00000u, 0xff800000u, 0xffc00000u})
    for (int bit = 0; bit < 23; ++bit) {
      numbers.push_back(std::bit_cast<float>(base | (1u << bit)));
      numbers.push_back(std::bit_cast<float>(base | ((2u << bit) - 1)));
    }
  std::vector<T> const results = narrowed<T>(numbers);
  for (std::size_t i = 0; i < numbers.size(); ++i)
    ASSERT_GT(bits_of(results[i]) & 0x7fffu, infinity_bits<T>) << std::hex << std::bit_cast<std::uint32_t>(numbers[i]);
}

TYPED_TEST(Convert, WideningAndNarrowingGivesTheSameBits) {
  using T = TypeParam;
  for (unsigned first = 0; first < 0x10000u; first += width<float>) {
    T before[width<float>], after[width<float>];
    for (unsigned lane = 0; lane < width<float>; ++lane) before[lane] = from_bits<T>(first + lane);
    narrow(after, widen(before));
    for (unsigned lane = 0; lane < width<float>; ++lane) {
      if (std::isnan(value<T>(first + lane))) continue;
      ASSERT_EQ(bits_of(after[lane]), first + lane);
    }
  }
}

template <class T>
class ConvertPart : public testing::Test {};
using Elements = testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(ConvertPart, Elements);

/// Small integers, which all types hold: first, first + 1, ...
template <class T>
std::vector<T> counting(index_t count, int first = 1) {
  std::vector<T> numbers;
  for (index_t i = 0; i < count; ++i) numbers.push_back(static_cast<T>(static_cast<float>(first + i)));
  return numbers;
}

TYPED_TEST(ConvertPart, FullVectorsMayStandAnywhere) {
  using T = TypeParam;
  using A = accumulation_t<T>;
  std::vector<T> const from = counting<T>(3 * width<A>);
  for (int offset = 0; offset < 2 * width<A>; ++offset) {
    std::vector<T> to(from.size(), T(-1));
    narrow(&to[static_cast<std::size_t>(offset)], widen(&from[static_cast<std::size_t>(offset)]));
    for (int i = 0; i < 3 * width<A>; ++i) {
      auto const at = static_cast<std::size_t>(i);
      ASSERT_EQ(to[at], i >= offset && i < offset + width<A> ? from[at] : T(-1)) << offset << ' ' << i;
    }
  }
}

TYPED_TEST(ConvertPart, ReadsNothingPastThePartAndZeroFills) {
  using T = TypeParam;
  using A = accumulation_t<T>;
  for (int count = 0; count < width<A>; ++count) {
    test::end_of_memory<T> const from(counting<T>(count));
    A lanes[width<A>];
    widen_part(from.data(), count).store_unaligned(lanes);
    for (int i = 0; i < width<A>; ++i) ASSERT_EQ(lanes[i], i < count ? A(i + 1) : A(0)) << count << ' ' << i;
  }
}

TYPED_TEST(ConvertPart, WritesNothingPastThePart) {
  using T = TypeParam;
  using A = accumulation_t<T>;
  std::vector<A> const from = counting<A>(width<A>);
  for (int count = 0; count < width<A>; ++count) {
    std::vector<T> to(2 * width<A>, T(-1));
    narrow_part(to.data(), vector<A>::load_unaligned(from.data()), count);
    for (int i = 0; i < 2 * width<A>; ++i)
      ASSERT_EQ(to[static_cast<std::size_t>(i)], i < count ? T(static_cast<float>(i + 1)) : T(-1)) << count << ' ' << i;
    test::end_of_memory<T> const end(static_cast<std::size_t>(count));
    narrow_part(end.data(), vector<A>::load_unaligned(from.data()), count);
    for (int i = 0; i < count; ++i) ASSERT_EQ(end[static_cast<std::size_t>(i)], T(static_cast<float>(i + 1)));
  }
}

TYPED_TEST(ConvertPart, WidensRowsOfAnyLength) {
  using T = TypeParam;
  using A = accumulation_t<T>;
  for (index_t count : {0, 1, width<A> - 1, width<A>, width<A> + 1, 3 * width<A> + 2, 100}) {
    test::end_of_memory<T> const from(counting<T>(count));
    std::vector<A> to(static_cast<std::size_t>(count) + width<A>, A(-1));
    widen_row(from.data(), to.data(), count);
    for (index_t i = 0; i < count + width<A>; ++i)
      ASSERT_EQ(to[static_cast<std::size_t>(i)], i < count ? A(i + 1) : A(-1)) << count << ' ' << i;
  }
}

TYPED_TEST(ConvertPart, TruthsBecomeZeroAndOne) {
  using A = accumulation_t<TypeParam>;
  for (int count = 0; count <= width<A>; ++count) {
    test::end_of_memory<bool> const from(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) from[static_cast<std::size_t>(i)] = i % 3 != 1;
    A lanes[width<A>];
    (count == width<A> ? widen_to<A>(from.data()) : widen_part_to<A>(from.data(), count)).store_unaligned(lanes);
    for (int i = 0; i < width<A>; ++i) ASSERT_EQ(lanes[i], A(i < count && i % 3 != 1)) << count << ' ' << i;
  }
}

}  // namespace
}  // namespace attend::simd
