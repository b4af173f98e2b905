// SPDX-License-Identifier: BSD-3-Clause
// Elements of a rank in columns: against sorting, for numbers of every kind.
#include <gtest/gtest.h>
#include <attend/core/scratch.hpp>
#include <attend/select/column_ranks.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <vector>

namespace attend {
using namespace extend;

namespace {

/// Of a column of `count` numbers that `next` makes, those that are kept are those that are not among the `rank` least,
/// or equal the first that is not.
template <class A>
void expect_ranks(index_t count, index_t rank, std::function<A(std::mt19937&)> const& next) {
  constexpr index_t lanes = simd::width<A>, stride = 2 * lanes;
  std::mt19937 engine(static_cast<unsigned>(31 * count + rank));
  scratch memory;
  A* const columns = memory.allocate<A>(count * stride);
  for (index_t i = 0; i < count * stride; ++i) columns[i] = next(engine);
  alignas(64) A found[array_size(lanes)];
  detail::column_ranks(columns + lanes, count, stride, rank, found);
  for (index_t lane = 0; lane < lanes; ++lane) {
    std::vector<A> column;
    for (index_t j = 0; j < count; ++j) column.push_back(columns[j * stride + lanes + lane]);
    std::vector<A> sorted = column;
    std::sort(sorted.begin(), sorted.end());
    A const expected = sorted[static_cast<std::size_t>(rank)];
    for (A x : column) ASSERT_EQ(x >= found[lane], x >= expected) << x << " of " << count << ", rank " << rank;
  }
}

template <class A>
void expect_all_ranks(std::function<A(std::mt19937&)> const& next) {
  for (index_t count : {1, 2, 3, 17, 100, 5000})
    for (index_t rank : {index_t{0}, index_t{1}, count / 3, count / 2, count - 2, count - 1})
      if (rank >= 0 && rank < count) expect_ranks<A>(count, rank, next);
}

TEST(ColumnRanks, KeepWhatSortingKeeps) {
  std::normal_distribution<double> normal;
  expect_all_ranks<float>([&](auto& engine) { return static_cast<float>(normal(engine)); });
  expect_all_ranks<double>([&](auto& engine) { return normal(engine); });
}

TEST(ColumnRanks, KeepTies) {
  expect_all_ranks<float>([](auto& engine) { return static_cast<float>(engine() % 3) - 1; });
  expect_all_ranks<float>([](auto&) { return -4.5f; });
}

TEST(ColumnRanks, EndOnOutliers) {
  std::normal_distribution<float> normal;
  expect_all_ranks<float>([&](auto& engine) {
    float const x = normal(engine);
    return engine() % 50 == 0 ? x * 1e37f : x * 1e-20f;
  });
  expect_all_ranks<double>([&](auto& engine) { return std::exp(80 * static_cast<double>(normal(engine))); });
  expect_all_ranks<float>([&](auto& engine) {
    float const x = normal(engine);
    return engine() % 9 == 0 ? std::copysign(infinity<float>, x) : x;
  });
}

TEST(ColumnRanks, EndOnNaN) {
  std::normal_distribution<float> normal;
  constexpr index_t lanes = simd::width<float>, count = 60;
  std::mt19937 engine(1);
  scratch memory;
  float* const columns = memory.allocate<float>(count * lanes);
  for (index_t i = 0; i < count * lanes; ++i)
    columns[i] = i % lanes != 0 && i % 7 == 0 ? std::nanf("") : normal(engine);
  std::vector<float> first;
  for (index_t j = 0; j < count; ++j) first.push_back(columns[j * lanes]);
  std::vector<float> sorted = first;
  std::sort(sorted.begin(), sorted.end());
  alignas(64) float found[array_size(lanes)];
  for (index_t rank : {0, 20, 59}) {
    detail::column_ranks(columns, count, lanes, rank, found);
    // The first column has none, and is ranked as it is beside other columns.
    float const expected = sorted[static_cast<std::size_t>(rank)];
    for (float x : first) EXPECT_EQ(x >= found[0], x >= expected) << x << ", rank " << rank;
  }
}

}  // namespace
}  // namespace attend
