// SPDX-License-Identifier: BSD-3-Clause
// Integers in lanes behave like an int, in both widths: every operator, against the same on plain integers, for small
// numbers of both signs and for the largest ones.
#include <attend/simd/integers.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>
#include <vector>

namespace attend::simd {
using namespace extend;

namespace {

template <class T>
class Integers : public testing::Test {
 protected:
  using element = position_t<T>;
  using lanes = integers<T>;
  static constexpr int count = width<T>;

  struct array {
    alignas(64) element lane[count];
  };
  static array stored(lanes const& x) {
    array result;
    store(result.lane, x.lanes());
    return result;
  }
  static array stored(typename lanes::truth const& x) {
    alignas(64) T truths[count];
    store(truths, select(reinterpret_mask<T>(x), vector<T>(T(1)), vector<T>(T(0))));
    array result;
    std::copy(truths, truths + count, result.lane);
    return result;
  }

  /// Pairs whose product fits in 32 bits, and pairs that only sums, differences, quotients and comparisons stand.
  static std::vector<std::pair<element, element>> small_pairs() {
    std::vector<std::pair<element, element>> pairs;
    for (int a = -20; a <= 20; ++a)
      for (int b = -20; b <= 20; ++b) pairs.emplace_back(a, b);
    std::mt19937 engine(1);
    std::uniform_int_distribution<int> distribution(-46340, 46340);
    for (int i = 0; i < 1000; ++i) pairs.emplace_back(distribution(engine), distribution(engine));
    return pairs;
  }
  static std::vector<std::pair<element, element>> large_pairs() {
    std::vector<std::pair<element, element>> pairs;
    element const most = std::numeric_limits<std::int32_t>::max();
    for (element a : {most, most - 1, -most, most / 2, element(1) << 29, element(0), element(1), element(-1)})
      for (element b :
           {most, most - 1, -most, element(2), element(3), element(7), element(-1), element(1), element(1) << 30})
        pairs.emplace_back(a, b);
    std::mt19937 engine(2);
    std::uniform_int_distribution<std::int32_t> distribution(-std::numeric_limits<std::int32_t>::max());
    for (int i = 0; i < 2000; ++i) {
      element const a = distribution(engine), b = distribution(engine) >> i % 31;
      pairs.emplace_back(a, b);
      // Multiples, and their neighbours, are where a quotient that is not exact shows.
      if (b != 0) {
        element const multiple = a / b * b;
        for (element next : {multiple, multiple - 1, multiple + 1})
          if (next >= -most && next <= most) pairs.emplace_back(next, b);
      }
    }
    return pairs;
  }

  /// function(a, b) in lanes gives, for all pairs, what expected(a, b) gives.
  template <class Function, class Expected>
  static void expect_same(std::vector<std::pair<element, element>> const& pairs, Function const& function,
                          Expected const& expected) {
    for (std::size_t first = 0; first < pairs.size(); first += count) {
      array a, b;
      for (int i = 0; i < count; ++i) {
        auto const& pair = pairs[(first + static_cast<std::size_t>(i)) % pairs.size()];
        a.lane[i] = pair.first, b.lane[i] = pair.second;
      }
      array const result = stored(function(lanes(load(a.lane)), lanes(load(b.lane))));
      for (int i = 0; i < count; ++i)
        ASSERT_EQ(result.lane[i], static_cast<element>(expected(a.lane[i], b.lane[i])))
            << a.lane[i] << ' ' << b.lane[i];
    }
  }
  template <class Function>
  static void expect_same(std::vector<std::pair<element, element>> const& pairs, Function const& function) {
    expect_same(pairs, function, function);
  }
  template <class Pairs>
  static Pairs without_zero_divisors(Pairs pairs) {
    std::erase_if(pairs, [](auto const& pair) { return pair.second == 0; });
    return pairs;
  }
};
using Reals = testing::Types<float, double>;
TYPED_TEST_SUITE(Integers, Reals);

TYPED_TEST(Integers, AddSubtractMultiplyNegate) {
  this->expect_same(this->small_pairs(), std::plus<>());
  this->expect_same(this->small_pairs(), std::minus<>());
  this->expect_same(this->small_pairs(), std::multiplies<>());
  this->expect_same(this->large_pairs(), [](auto const& a, auto const&) { return -a; });
}

TYPED_TEST(Integers, QuotientsAreTruncatedTowardsZero) {
  this->expect_same(this->without_zero_divisors(this->small_pairs()), std::divides<>());
  this->expect_same(this->without_zero_divisors(this->large_pairs()), std::divides<>());
}

TYPED_TEST(Integers, RemaindersHaveTheSignOfTheDividend) {
  this->expect_same(this->without_zero_divisors(this->small_pairs()), std::modulus<>());
  this->expect_same(this->without_zero_divisors(this->large_pairs()), std::modulus<>());
}

TYPED_TEST(Integers, DivisionByZeroGivesZero) {
  auto pairs = this->large_pairs();
  for (std::size_t i = 0; i < pairs.size(); i += 2) pairs[i].second = 0;
  this->expect_same(pairs, std::divides<>(), [](auto a, auto b) { return b == 0 ? 0 : a / b; });
  this->expect_same(pairs, std::modulus<>(), [](auto a, auto b) { return b == 0 ? a : a % b; });
}

TYPED_TEST(Integers, CombineBits) {
  this->expect_same(this->large_pairs(), std::bit_and<>());
  this->expect_same(this->large_pairs(), std::bit_or<>());
  this->expect_same(this->large_pairs(), std::bit_xor<>());
}

TYPED_TEST(Integers, Shift) {
  for (int by : {0, 1, 5, 14}) {
    this->expect_same(this->small_pairs(), [by](auto const& a, auto const&) { return a << by; });
    this->expect_same(this->large_pairs(), [by](auto const& a, auto const&) { return a >> by; });
  }
}

TYPED_TEST(Integers, Compare) {
  for (auto const& pairs : {this->small_pairs(), this->large_pairs()}) {
    this->expect_same(pairs, std::equal_to<>());
    this->expect_same(pairs, std::not_equal_to<>());
    this->expect_same(pairs, std::less<>());
    this->expect_same(pairs, std::less_equal<>());
    this->expect_same(pairs, std::greater<>());
    this->expect_same(pairs, std::greater_equal<>());
  }
}

TYPED_TEST(Integers, MinimumMaximumAndMagnitude) {
  for (auto const& pairs : {this->small_pairs(), this->large_pairs()}) {
    this->expect_same(
        pairs, [](auto const& a, auto const& b) { return std::pair(min(a, b), 0).first; },
        [](auto a, auto b) { return std::min(a, b); });
    this->expect_same(
        pairs, [](auto const& a, auto const& b) { return std::pair(max(a, b), 0).first; },
        [](auto a, auto b) { return std::max(a, b); });
    this->expect_same(
        pairs, [](auto const& a, auto const&) { return abs(a); }, [](auto a, auto) { return a < 0 ? -a : a; });
  }
}

TYPED_TEST(Integers, MixWithPlainIntegers) {
  auto const check = [&](auto const& function) { this->expect_same(this->small_pairs(), function, function); };
  check([](auto const& a, auto const&) { return a / 7 + 3; });
  check([](auto const& a, auto const&) { return 100 - a % 8 * 2; });
  check([](auto const& a, auto const& b) { return a / 16 == b / 16; });
  check([](auto const& a, auto const& b) { return (a - b <= 3) & (b < index_t{5}); });
  auto const same = this->stored(integers<TypeParam>(index_t{-3}));
  for (auto lane : same.lane) EXPECT_EQ(lane, -3);
}

}  // namespace
}  // namespace attend::simd
