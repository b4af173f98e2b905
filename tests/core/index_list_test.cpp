// SPDX-License-Identifier: BSD-3-Clause
// Lists of integers: the same numbers come out of every source and width, and what cannot be read is refused.
#include <attend/core/index_list.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <span>
#include <vector>

namespace attend {
using namespace extend;

namespace {

std::vector<index_t> elements(index_list const& list) {
  std::vector<index_t> result;
  for (index_t i = 0; i < list.size(); ++i) result.push_back(list[i]);
  return result;
}

using testing::ElementsAre;
using testing::IsEmpty;

TEST(IndexList, ReadsBothWidths) {
  EXPECT_THAT(elements(std::vector<std::int32_t>{3, -1, 2147483647}), ElementsAre(3, -1, 2147483647));
  EXPECT_THAT(elements(std::vector<std::int64_t>{3, -1, index_t{1} << 40}), ElementsAre(3, -1, index_t{1} << 40));
  EXPECT_THAT(elements(std::vector<long long>{5}), ElementsAre(5));
}

TEST(IndexList, ReadsEverySource) {
  std::array<int, 2> const array{7, 8};
  std::vector<int> const vector{1, 2, 3};
  Eigen::VectorXi eigen(2);
  eigen << 4, 5;
  EXPECT_THAT(elements(array), ElementsAre(7, 8));
  EXPECT_THAT(elements(vector), ElementsAre(1, 2, 3));
  EXPECT_THAT(elements(std::span<int const>(vector).subspan(1)), ElementsAre(2, 3));
  EXPECT_THAT(elements(eigen), ElementsAre(4, 5));
  EXPECT_THAT(elements(tensor_view<int const, 1>(vector.data(), {2})), ElementsAre(1, 2));
}

TEST(IndexList, MayBeEmpty) {
  EXPECT_THAT(elements(index_list()), IsEmpty());
  EXPECT_THAT(elements(std::vector<int>()), IsEmpty());
}

TEST(IndexList, RefusesWhatItCannotRead) {
  int numbers[6] = {};
  EXPECT_THROW(index_list(tensor_view<int, 1>(numbers, {3}, {2})), argument_error);
  EXPECT_THROW(index_list(tensor_view<int, 1>(nullptr, {3})), argument_error);
  EXPECT_THROW(index_list(tensor_view<int, 1>(numbers, {-1})), argument_error);
  Eigen::Matrix<int, 3, 2, Eigen::RowMajor> matrix;
  matrix.setZero();
  EXPECT_THROW(index_list(matrix.col(0)), argument_error);
  EXPECT_EQ(index_list(matrix.row(0)).size(), 2);
}

}  // namespace
}  // namespace attend
