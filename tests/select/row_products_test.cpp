// SPDX-License-Identifier: BSD-3-Clause
// Products of rows with the rows of a matrix, and what is chosen by them.
#include <attend/select/row_products.hpp>

#include <span>

#include "support/compare.hpp"
#include "support/random_tensor.hpp"

namespace attend {
using namespace options;

namespace {

using detail::row_order;

template <class T>
std::vector<accumulation_t<T>> products_of(test::tensor<T, 2> const& rows, test::tensor<T, 2> const& matrix,
                                           row_order order) {
  index_t const candidates = matrix.extents[0];
  std::vector<accumulation_t<T>> all;
  index_t next = 0;
  detail::row_products(
      matrix.view(), rows.extents[0], order, [&](index_t i) { return rows.view().data() + i * rows.extents[1]; },
      [&](index_t i, accumulation_t<T> const* products) {
        EXPECT_EQ(i, next++);
        all.insert(all.end(), products, products + candidates);
      });
  return all;
}

template <class T>
void expect_products(index_t rows, index_t candidates, index_t dimension) {
  auto const x = test::normal<T, 2>({rows, dimension}, 1), matrix = test::normal<T, 2>({candidates, dimension}, 2);
  std::vector<double> expected;
  double largest = 1;
  for (index_t i = 0; i < rows; ++i)
    for (index_t c = 0; c < candidates; ++c) {
      double sum = 0, magnitude = 0;
      for (index_t d = 0; d < dimension; ++d) {
        double const product = static_cast<double>(x.view()(i, d)) * static_cast<double>(matrix.view()(c, d));
        sum += product, magnitude += std::abs(product);
      }
      expected.push_back(sum);
      largest = std::max(largest, magnitude);
    }
  using A = accumulation_t<T>;
  for (row_order order : {row_order::own_bits, row_order::by_count})
    EXPECT_TRUE(test::near(products_of(x, matrix, order), expected, test::tolerance<A>(largest)))
        << rows << " rows, " << candidates << " candidates, " << dimension << " numbers";
}

TEST(RowProducts, AreProducts) {
  for (index_t rows : {0, 1, 3, 5, 16, 47, 100})
    for (index_t candidates : {1, 7, 33})
      for (index_t dimension : {1, 8, 37}) expect_products<float>(rows, candidates, dimension);
  expect_products<double>(20, 9, 24);
  expect_products<half>(70, 40, 16);
  expect_products<bfloat16>(2, 5, 33);
}

TEST(RowProducts, ARowsBitsAreItsOwn) {
  auto const x = test::normal<float, 2>({100, 24}, 3), matrix = test::normal<float, 2>({19, 24}, 4);
  auto const group_size = products_of(x, matrix, row_order::own_bits);
  for (index_t i : {0, 1, 50, 99}) {
    auto one = test::normal<float, 2>({1, 24}, 3);
    std::copy_n(x.elements.begin() + i * 24, 24, one.elements.begin());
    auto const alone = products_of(one, matrix, row_order::own_bits);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), group_size.begin() + i * 19)) << i;
  }
}

template <class T>
void expect_unit_products(index_t rows, index_t candidates, index_t dimension) {
  using A = accumulation_t<T>;
  auto x = test::normal<T, 2>({rows, dimension}, 5);
  auto const matrix = test::normal<A, 2>({candidates, dimension}, 6);
  // A row of zeros has no direction.
  std::fill_n(x.elements.begin(), dimension, T(0));
  index_t const stride = detail::candidate_stride(rows);
  std::vector<float> products(static_cast<std::size_t>(candidates * stride), 7.f);
  detail::unit_products(engine::rows_of<T>{x.elements.data(), dimension}, rows, matrix.view(), products.data());
  for (index_t c = 0; c < candidates; ++c) {
    std::vector<double> expected;
    double largest = 1;
    for (index_t i = 0; i < rows; ++i) {
      double sum = 0, square = 0, magnitude = 0;
      for (index_t d = 0; d < dimension; ++d) {
        double const element = static_cast<double>(x.view()(i, d)), other = static_cast<double>(matrix.view()(c, d));
        sum += element * other, magnitude += std::abs(element * other), square += element * element;
      }
      double const length = square > 0 ? std::sqrt(square) : 1;
      expected.push_back(sum / length);
      largest = std::max(largest, magnitude / length);
    }
    std::span<float const> const of_candidate(products.data() + c * stride, expected.size());
    EXPECT_TRUE(test::near(of_candidate, expected, test::tolerance<float>(largest))) << "candidate " << c;
    // Nothing is written between two candidates' products.
    EXPECT_EQ(products[static_cast<std::size_t>(c * stride + rows)], 7.f);
  }
}

TEST(UnitProducts, AreThoseOfRowsAtLengthOne) {
  for (index_t rows : {1, 16, 50, 100}) expect_unit_products<float>(rows, 7, 20);
  expect_unit_products<double>(33, 3, 9);
  expect_unit_products<half>(40, 5, 33);
}

TEST(TopProducts, AreTheLargestInAscendingOrder) {
  std::int32_t chosen[3];
  float const numbers[] = {1, 5, -2, 5, 7};
  EXPECT_EQ(detail::top_products(numbers, 5, 3, chosen), 3);
  EXPECT_EQ((std::vector<std::int32_t>(chosen, chosen + 3)), (std::vector<std::int32_t>{1, 3, 4}));
  double const doubles[] = {1, 5, -2, 5, 7};
  EXPECT_EQ(detail::top_products(doubles, 5, 2, chosen), 2);
  EXPECT_EQ((std::vector<std::int32_t>(chosen, chosen + 2)), (std::vector<std::int32_t>{1, 4}));
  EXPECT_EQ(detail::top_products(doubles, 0, 2, chosen), 0);
}

}  // namespace
}  // namespace attend
