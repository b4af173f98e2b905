// SPDX-License-Identifier: BSD-3-Clause
// Sums over the elements of pairs of rows, of every number of rows and elements.
#include <attend/simd/row_sums.hpp>

#include "support/compare.hpp"
#include "support/random_tensor.hpp"

namespace attend {
using namespace extend;

namespace {

template <class T>
void expect_sums(index_t count, index_t dimension) {
  using A = accumulation_t<T>;
  using V = simd::vector<A>;
  auto const x = test::normal<T, 2>({count, dimension}, 1), y = test::normal<T, 2>({count, dimension}, 2);
  std::vector<double> expected;
  double largest = 1;
  for (index_t j = 0; j < count; ++j) {
    double sum = 0, magnitude = 0;
    for (index_t c = 0; c < dimension; ++c) {
      double const term = std::abs(static_cast<double>(x.view()(j, c))) * static_cast<double>(y.view()(j, c));
      sum += term, magnitude += std::abs(term);
    }
    expected.push_back(0.5 * sum);
    largest = std::max(largest, magnitude);
  }
  alignas(64) A sums[64] = {};
  simd::row_sums(
      count, dimension, A(0.5), sums, [&](index_t j) { return x.elements.data() + j * dimension; },
      [&](index_t j) { return y.elements.data() + j * dimension; },
      [](V const& sum, V const& a, V const& b) { return simd::fused_multiply_add(simd::abs(a), b, sum); });
  EXPECT_TRUE(test::near(std::vector<A>(sums, sums + count), expected, test::tolerance<A>(largest)))
      << count << " rows of " << dimension;
}

TEST(RowSums, AreSumsOfTerms) {
  for (index_t count : {0, 1, 7, 16, 33})
    for (index_t dimension : {0, 1, 16, 37}) {
      expect_sums<float>(count, dimension);
      expect_sums<double>(count, dimension);
      expect_sums<half>(count, dimension);
      expect_sums<bfloat16>(count, dimension);
    }
}

}  // namespace
}  // namespace attend
