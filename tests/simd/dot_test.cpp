// SPDX-License-Identifier: BSD-3-Clause
// Dot products of every length around a vector's.
#include <attend/simd/dot.hpp>

#include <gtest/gtest.h>

#include <cmath>

#include "support/compare.hpp"
#include "support/random_tensor.hpp"

namespace attend {
using namespace extend;

namespace {

template <class T>
class Dot : public testing::Test {};
using Elements = testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(Dot, Elements);

TYPED_TEST(Dot, SumsAllProductsAndNoMore) {
  using A = accumulation_t<TypeParam>;
  for (index_t count = 0; count < 150; ++count) {
    auto const a = test::normal<TypeParam, 1>({count}, 1).elements;
    auto const b = test::normal<A, 1>({count}, 2).elements;
    double sum = 0, magnitude = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      double const product = static_cast<double>(a[i]) * static_cast<double>(b[i]);
      sum += product;
      magnitude += std::abs(product);
    }
    // No more roundings than terms.
    EXPECT_NEAR(simd::dot(a.data(), b.data(), count), sum,
                static_cast<double>(count) * test::unit_roundoff<A>() * magnitude);
  }
}

}  // namespace
}  // namespace attend
