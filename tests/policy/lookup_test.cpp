// SPDX-License-Identifier: BSD-3-Clause
// Tables looked up by numbers and by vectors, in both widths, against the entry by definition; and a relative bias that
// way against the same bias as a tensor.
#include <attend/policy/lookup.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/score/bias.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace extend;

namespace {

/// The nearest entry, as a number.
template <class Entry>
double entry(std::vector<Entry> const& table, double index) {
  if (!(index > 0)) index = 0;
  return static_cast<double>(table[static_cast<std::size_t>(std::min(index, double(table.size() - 1)))]);
}

template <class T, class Lanes>
std::vector<double> lanes_of(Lanes const& x) {
  std::vector<double> result;
  if constexpr (requires { x.lanes(); }) {
    alignas(64) position_t<T> stored[simd::width<T>];
    simd::store(stored, x.lanes());
    for (auto one : stored) result.push_back(static_cast<double>(one));
  } else {
    alignas(64) T stored[simd::width<T>];
    simd::store(stored, x);
    for (T one : stored) result.push_back(static_cast<double>(one));
  }
  return result;
}

/// Indices in lanes: one for all, neighbours, neighbours that run out of the table at either end, and any.
template <class T>
std::vector<std::vector<position_t<T>>> indices(index_t count) {
  std::vector<std::vector<position_t<T>>> all;
  for (index_t first = -simd::width<T> - 1; first <= count; ++first)
    for (index_t step : {0, 1, -1, 3}) {
      all.emplace_back();
      for (index_t lane = 0; lane < simd::width<T>; ++lane)
        all.back().push_back(static_cast<position_t<T>>(first + lane * step));
    }
  all.push_back(std::vector<position_t<T>>(std::size_t(simd::width<T>), 1 << 29));
  all.push_back(std::vector<position_t<T>>(std::size_t(simd::width<T>), -(1 << 29)));
  return all;
}

template <class T, class Entry>
void expect_entries(index_t count) {
  std::vector<Entry> table;
  for (index_t i = 0; i < count; ++i) table.push_back(static_cast<Entry>(static_cast<float>(i * 37 % 101)));
  for (auto const& at : indices<T>(count)) {
    alignas(64) position_t<T> whole[simd::width<T>];
    alignas(64) T real[simd::width<T>];
    for (std::size_t lane = 0; lane < at.size(); ++lane) {
      whole[lane] = at[lane];
      real[lane] = static_cast<T>(at[lane]) + (at[lane] >= 0 && at[lane] < 1000 ? T(0.75) : T(0));
    }
    auto const by_position = lanes_of<T>(lookup(table, simd::integers<T>(simd::load(whole))));
    auto const by_number = lanes_of<T>(lookup(table, simd::load(real)));
    for (std::size_t lane = 0; lane < at.size(); ++lane) {
      double const expected = entry(table, static_cast<double>(at[lane]));
      EXPECT_EQ(by_position[lane], expected) << at[lane];
      EXPECT_EQ(by_number[lane], expected) << at[lane];
      EXPECT_EQ(static_cast<double>(lookup(table, whole[lane])), expected);
      EXPECT_EQ(static_cast<double>(lookup(table, real[lane])), expected);
    }
  }
}

TEST(Lookup, GivesTheNearestEntry) {
  for (index_t count : {1, 2, 40}) {
    expect_entries<float, float>(count);
    expect_entries<float, std::int32_t>(count);
    expect_entries<float, std::int8_t>(count);
    expect_entries<float, double>(count);
    expect_entries<float, half>(count);
    expect_entries<double, double>(count);
    expect_entries<double, std::int64_t>(count);
    expect_entries<double, bfloat16>(count);
  }
}

TEST(Lookup, KeepsWholeNumbersWhole) {
  std::vector<std::int32_t> const table{(1 << 24) + 1, 3};
  static_assert(std::same_as<decltype(lookup(table, simd::integers<float>(0))), simd::integers<float>>);
  static_assert(std::same_as<decltype(lookup(table, simd::vector<float>(0))), simd::vector<float>>);
  static_assert(std::same_as<decltype(lookup(table, 0)), std::int32_t>);
  EXPECT_EQ(lanes_of<float>(lookup(table, simd::integers<float>(0)))[1], (1 << 24) + 1);
}

TEST(Lookup, StaysInTheTableWhateverTheNumber) {
  std::vector<float> const table{5, 6, 7};
  for (auto const& [index, expected] :
       {std::pair(std::numeric_limits<float>::quiet_NaN(), 5.f), std::pair(infinity<float>, 7.f),
        std::pair(-infinity<float>, 5.f), std::pair(1e30f, 7.f), std::pair(-1e30f, 5.f)}) {
    EXPECT_EQ(lookup(table, index), expected) << index;
    for (double x : lanes_of<float>(lookup(table, simd::vector<float>(index)))) EXPECT_EQ(x, expected) << index;
  }
  std::vector<float> const none;
  EXPECT_EQ(lookup(none, 3), 0);
  for (double x : lanes_of<float>(lookup(none, simd::vector<float>(3.f)))) EXPECT_EQ(x, 0);
  tensor_view<float const, 2> const no_columns(none.data(), {3, 0});
  for (double x : lanes_of<float>(lookup(no_columns, simd::vector<float>(1.f), simd::vector<float>(3.f))))
    EXPECT_EQ(x, 0);
}

// T5: a bias for each head by the distance, up to some distance.
template <class T>
void expect_relative_bias(index_t query_heads, index_t key_heads) {
  index_t const queries = 30, keys = 90, distances = 41;
  auto const in = test::random_inputs<T>(
      {.query_heads = query_heads, .key_heads = key_heads, .value_heads = key_heads, .queries = queries, .keys = keys},
      1);
  auto const table = test::normal<T, 2>({query_heads, distances}, 2);
  auto pairs = test::filled<T, 4>({1, query_heads, queries, keys}, T(0));
  for (index_t h = 0; h < query_heads; ++h)
    for (index_t i = 0; i < queries; ++i)
      for (index_t j = 0; j < keys; ++j)
        pairs.view()(0, h, i, j) = table.view()(h, std::clamp<index_t>(i + keys - queries - j, 0, distances - 1));
  auto const expected = test::attend_to(in, bias(pairs.view()), causal{});
  auto const of_heads = table.view();
  auto const got = test::attend_to(in, causal{}, score([&](auto s, auto const& at) {
                                     return s + lookup(of_heads, at.head(), at.query_position - at.key_position);
                                   }));
  EXPECT_TRUE(test::near(got.output.elements, expected.output.elements, test::tolerance<T>(4)));
}

TEST(Lookup, IsARelativeBias) {
  expect_relative_bias<float>(3, 3);
  expect_relative_bias<float>(6, 2);
  expect_relative_bias<double>(4, 2);
}

TEST(Lookup, IsAMaskOfTokens) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 70, .keys = 70}, 1);
  std::vector<std::uint8_t> level;
  for (int i = 0; i < 70; ++i) level.push_back(static_cast<std::uint8_t>(i * i % 5));
  reference::options with;
  with.visible = [&](reference::place const& at) {
    return level[std::size_t(at.key)] <= level[std::size_t(at.position())];
  };
  EXPECT_TRUE(test::agrees(
      in, test::attend_to(in, mask([&](auto query, auto key) { return lookup(level, key) <= lookup(level, query); })),
      with));
}

}  // namespace
}  // namespace attend
