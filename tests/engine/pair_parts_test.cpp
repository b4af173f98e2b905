// SPDX-License-Identifier: BSD-3-Clause
// Rotated rows in parts: two numbers of bfloat16 are within 2^-16 of a float, and products of rows of parts within
// three times that, or once where only queries have parts.
#include <attend/engine/softmax/pair_parts.hpp>

#include <gtest/gtest.h>

#include <Eigen/Core>

#include <cmath>
#include <random>
#include <vector>

namespace attend::engine {
namespace {

struct rows {
  index_t dimension;
  std::vector<float> query, key;

  explicit rows(index_t d) : dimension(d) {
    std::mt19937 engine(static_cast<unsigned>(d));
    std::normal_distribution<float> normal;
    for (index_t c = 0; c < d; ++c) {
      query.push_back(normal(engine));
      key.push_back(normal(engine));
    }
  }
};

double number(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

/// Both rows are in the unit's order, so the products of the same places are those of the same numbers.
double product(std::vector<std::uint16_t> const& a, std::vector<std::uint16_t> const& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += number(a[i]) * number(b[i]);
  return sum;
}

void expect_near_product(rows const& r, std::vector<std::uint16_t> const& query, std::vector<std::uint16_t> const& key,
                         double error) {
  double sum = 0, size = 0;
  for (std::size_t c = 0; c < r.query.size(); ++c) {
    double const term = double{r.query[c]} * double{r.key[c]};
    sum += term;
    size += std::abs(term);
  }
  // The terms of second order add a hundredth.
  EXPECT_NEAR(product(query, key), sum, 1.01 * error * size) << "dimension " << r.dimension;
}

TEST(PairParts, GiveTheProductOfRotatedQueriesAndKeys) {
  for (index_t const dimension : {1, 31, 32, 40, 128}) {
    rows const r(dimension);
    scratch memory;
    pair_part_writer<bfloat16> const writer(memory, dimension);
    std::vector<std::uint16_t> query(static_cast<std::size_t>(3 * writer.padded()), 1), key = query;
    writer.write<3>(r.query.data(), false, query.data());
    writer.write<3>(r.key.data(), true, key.data());
    expect_near_product(r, query, key, 3 * 0x1p-16);
  }
}

TEST(PairParts, GiveTheProductOfRotatedQueries) {
  for (index_t const dimension : {1, 31, 32, 40, 128}) {
    rows r(dimension);
    std::vector<bfloat16> narrow;
    for (float& x : r.key) x = static_cast<float>(narrow.emplace_back(x));
    scratch memory;
    pair_part_writer<bfloat16> const writer(memory, dimension);
    std::vector<std::uint16_t> query(static_cast<std::size_t>(2 * writer.padded()), 1), key = query;
    writer.write<2>(r.query.data(), false, query.data());
    writer.write<2>(narrow.data(), key.data());
    expect_near_product(r, query, key, 0x1p-16);
  }
}

TEST(PairParts, LeaveNothingOfAnInfinity) {
  float const infinite = std::numeric_limits<float>::infinity();
  scratch memory;
  pair_part_writer<bfloat16> const writer(memory, 1);
  std::vector<std::uint16_t> query(static_cast<std::size_t>(2 * writer.padded()));
  writer.write<2>(&infinite, false, query.data());
  double sum = 0;
  for (std::uint16_t const bits : query) sum += number(bits);
  EXPECT_EQ(sum, infinite);
}

}  // namespace
}  // namespace attend::engine
