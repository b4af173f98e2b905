// SPDX-License-Identifier: BSD-3-Clause
// Views: what they are made of, that extents, strides, constness and addresses are those of the tensor, and what raise
// puts in front.
#include <attend/core/tensor_view.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <span>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

namespace attend {
using namespace extend;

namespace {

using testing::ElementsAre;

template <class T>
using row_major_matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class View, class T, int Rank>
inline constexpr bool is_view_of = std::same_as<std::remove_cvref_t<View>, tensor_view<T, Rank>>;

TEST(TensorView, OfAnEigenTensorHasItsExtentsAndAddresses) {
  Eigen::Tensor<float, 3, Eigen::RowMajor> tensor(2, 3, 5);
  auto const view = view_of(tensor);
  static_assert(is_view_of<decltype(view), float, 3>);
  EXPECT_THAT(view.extents(), ElementsAre(2, 3, 5));
  EXPECT_THAT(view.strides(), ElementsAre(15, 5, 1));
  EXPECT_EQ(view.data(), tensor.data());
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 3; ++j)
      for (int k = 0; k < 5; ++k) EXPECT_EQ(&view(i, j, k), &tensor(i, j, k));
  view(1, 2, 3) = 7;
  EXPECT_EQ(tensor(1, 2, 3), 7);
}

TEST(TensorView, OfAConstTensorOnlyReads) {
  Eigen::Tensor<double, 2, Eigen::RowMajor> tensor(4, 3);
  auto const view = view_of(std::as_const(tensor));
  static_assert(is_view_of<decltype(view), double const, 2>);
  EXPECT_EQ(&view(3, 2), &std::as_const(tensor)(3, 2));
}

TEST(TensorView, OfATensorMap) {
  using plain = Eigen::Tensor<half, 4, Eigen::RowMajor>;
  std::vector<half> elements(1 * 2 * 3 * 4);
  Eigen::TensorMap<plain> map(elements.data(), 1, 2, 3, 4);
  static_assert(is_view_of<decltype(view_of(map)), half, 4>);
  EXPECT_THAT(view_of(map).extents(), ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(&view_of(map)(0, 1, 2, 3), &elements.back());
  // The map's own constness is not that of the elements.
  static_assert(is_view_of<decltype(view_of(std::as_const(map))), half, 4>);

  Eigen::TensorMap<plain const> const reading(elements.data(), 1, 2, 3, 4);
  static_assert(is_view_of<decltype(view_of(reading)), half const, 4>);
  EXPECT_EQ(view_of(reading).data(), elements.data());
}

TEST(TensorView, OfATensorOfFixedSize) {
  Eigen::TensorFixedSize<float, Eigen::Sizes<2, 6>, Eigen::RowMajor> tensor;
  static_assert(is_view_of<decltype(view_of(tensor)), float, 2>);
  EXPECT_THAT(view_of(tensor).extents(), ElementsAre(2, 6));
  EXPECT_EQ(&view_of(tensor)(1, 4), &tensor(1, 4));
}

TEST(TensorView, OfATensorWithOneAxisInEitherOrder) {
  Eigen::Tensor<float, 1> column_major(9);
  Eigen::Tensor<float, 1, Eigen::RowMajor> row_major(8);
  EXPECT_THAT(view_of(column_major).extents(), ElementsAre(9));
  EXPECT_THAT(view_of(row_major).extents(), ElementsAre(8));
  EXPECT_EQ(&view_of(column_major)(8), column_major.data() + 8);
}

TEST(TensorView, OfAMatrix) {
  row_major_matrix<float> matrix(4, 6);
  auto const view = view_of(matrix);
  static_assert(is_view_of<decltype(view), float, 2>);
  static_assert(is_view_of<decltype(view_of(std::as_const(matrix))), float const, 2>);
  EXPECT_THAT(view.extents(), ElementsAre(4, 6));
  EXPECT_THAT(view.strides(), ElementsAre(6, 1));
  EXPECT_EQ(&view(3, 5), &matrix(3, 5));

  Eigen::Matrix<double, 3, 2, Eigen::RowMajor> fixed;
  EXPECT_THAT(view_of(fixed).extents(), ElementsAre(3, 2));
  EXPECT_EQ(&view_of(fixed)(2, 1), &fixed(2, 1));
}

TEST(TensorView, OfABlockKeepsTheStrideOfTheWhole) {
  row_major_matrix<float> matrix(7, 10);
  auto block = matrix.block(2, 3, 4, 5);
  auto const view = view_of(block);
  static_assert(is_view_of<decltype(view), float, 2>);
  EXPECT_THAT(view.extents(), ElementsAre(4, 5));
  EXPECT_THAT(view.strides(), ElementsAre(10, 1));
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 5; ++j) EXPECT_EQ(&view(i, j), &matrix(2 + i, 3 + j));

  auto const reading = view_of(std::as_const(matrix).block(2, 3, 4, 5));
  static_assert(is_view_of<decltype(reading), float const, 2>);
  EXPECT_EQ(&reading(1, 1), &matrix(3, 4));

  auto const inner = view_of(block.block(1, 1, 2, 2));
  EXPECT_THAT(inner.strides(), ElementsAre(10, 1));
  EXPECT_EQ(&inner(1, 0), &matrix(4, 4));
}

TEST(TensorView, OfAMap) {
  std::vector<float> elements(40);
  Eigen::Map<row_major_matrix<float>> map(elements.data(), 3, 5);
  EXPECT_THAT(view_of(map).strides(), ElementsAre(5, 1));
  Eigen::Map<row_major_matrix<float>, 0, Eigen::OuterStride<>> strided(elements.data(), 3, 5, Eigen::OuterStride<>(12));
  EXPECT_THAT(view_of(strided).extents(), ElementsAre(3, 5));
  EXPECT_THAT(view_of(strided).strides(), ElementsAre(12, 1));
  EXPECT_EQ(&view_of(strided)(2, 4), &elements[28]);
  Eigen::Map<row_major_matrix<float>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>> gaps(
      elements.data(), 3, 5, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(12, 2));
  EXPECT_THAT(view_of(gaps).strides(), ElementsAre(12, 2));
  Eigen::Map<row_major_matrix<float> const> const reading(elements.data(), 3, 5);
  static_assert(is_view_of<decltype(view_of(reading)), float const, 2>);
}

TEST(TensorView, OfAColumnMajorMatrixOnceItIsTransposed) {
  Eigen::MatrixXf matrix(3, 5);
  auto const view = view_of(matrix.transpose());
  EXPECT_THAT(view.extents(), ElementsAre(5, 3));
  EXPECT_THAT(view.strides(), ElementsAre(3, 1));
  EXPECT_EQ(&view(4, 1), &matrix(1, 4));
}

TEST(TensorView, OfVectorsHasOneAxis) {
  Eigen::VectorXf column(6);
  Eigen::RowVectorXd row(7);
  static_assert(is_view_of<decltype(view_of(column)), float, 1>);
  static_assert(is_view_of<decltype(view_of(std::as_const(row))), double const, 1>);
  EXPECT_THAT(view_of(column).extents(), ElementsAre(6));
  EXPECT_THAT(view_of(column).strides(), ElementsAre(1));
  EXPECT_THAT(view_of(row).extents(), ElementsAre(7));
  EXPECT_EQ(&view_of(row)(6), &row(6));

  row_major_matrix<float> matrix(4, 9);
  EXPECT_THAT(view_of(matrix.row(2)).strides(), ElementsAre(1));
  EXPECT_EQ(&view_of(matrix.row(2))(3), &matrix(2, 3));
  // A column is strided: the argument check, not the view, says what is wrong with that.
  EXPECT_THAT(view_of(matrix.col(2)).extents(), ElementsAre(4));
  EXPECT_THAT(view_of(matrix.col(2)).strides(), ElementsAre(9));
  EXPECT_EQ(&view_of(matrix.col(2))(3), &matrix(3, 2));
}

TEST(TensorView, OfContiguousRangesHasOneAxis) {
  std::vector<float> vector(5);
  std::array<double, 4> const array{};
  std::span<bfloat16 const> const span;
  static_assert(is_view_of<decltype(view_of(vector)), float, 1>);
  static_assert(is_view_of<decltype(view_of(std::as_const(vector))), float const, 1>);
  static_assert(is_view_of<decltype(view_of(array)), double const, 1>);
  static_assert(is_view_of<decltype(view_of(span)), bfloat16 const, 1>);
  EXPECT_THAT(view_of(vector).extents(), ElementsAre(5));
  EXPECT_EQ(&view_of(vector)(4), &vector[4]);
  EXPECT_THAT(view_of(array).extents(), ElementsAre(4));
  EXPECT_TRUE(view_of(span).empty());
}

TEST(TensorView, OfAPointerWithExtentsIsContiguous) {
  float elements[24];
  tensor_view<float, 3> const view(elements, {2, 3, 4});
  EXPECT_THAT(view.strides(), ElementsAre(12, 4, 1));
  EXPECT_EQ(view.extent(1), 3);
  EXPECT_EQ(view.stride(0), 12);
  EXPECT_EQ(&view(1, 2, 3), &elements[23]);
}

TEST(TensorView, TakesItsTypeAndRankFromAPointerAndLists) {
  std::vector<float> numbers(24);
  index_t const tokens = 3;
  tensor_view const writes(numbers.data(), {2, tokens, 4});
  static_assert(is_view_of<decltype(writes), float, 3>);
  EXPECT_THAT(writes.strides(), ElementsAre(12, 4, 1));
  tensor_view const reads(std::as_const(numbers).data(), {tokens, 2, 4}, {4, 12, 1});
  static_assert(is_view_of<decltype(reads), float const, 3>);
  EXPECT_EQ(&reads(1, 1, 2), &writes(1, 1, 2));
}

TEST(TensorView, WrapsAnOverflowingStrideAround) {
  index_t const most = std::numeric_limits<index_t>::max();
  EXPECT_THAT((tensor_view<float, 3>(nullptr, {1, most / 2, 5}).strides()), ElementsAre(most / 2 - 4, 5, 1));
}

TEST(TensorView, WithStridesReadsAnyOrderOfAxes) {
  // [batch, token, head, dim] in memory, read as [batch, head, token, dim].
  index_t const batch = 2, tokens = 3, heads = 4, dimension = 5;
  std::vector<float> elements(batch * tokens * heads * dimension);
  tensor_view<float, 4> const view(elements.data(), {batch, heads, tokens, dimension},
                                   {tokens * heads * dimension, dimension, heads * dimension, 1});
  for (index_t b = 0; b < batch; ++b)
    for (index_t h = 0; h < heads; ++h)
      for (index_t t = 0; t < tokens; ++t)
        EXPECT_EQ(&view(b, h, t, 2), &elements[((b * tokens + t) * heads + h) * dimension + 2]);
}

TEST(TensorView, WithStrideZeroIsBroadcast) {
  float elements[6];
  tensor_view<float const, 3> const view(elements, {100, 2, 3}, {0, 3, 1});
  EXPECT_EQ(&view(99, 1, 2), &elements[5]);
  EXPECT_EQ(&view(0, 1, 2), &elements[5]);
}

TEST(TensorView, WithANegativeStrideRunsBackwards) {
  float elements[6];
  tensor_view<float, 2> const view(elements + 3, {2, 3}, {-3, 1});
  EXPECT_EQ(&view(1, 0), &elements[0]);
}

TEST(TensorView, OfAViewIsTheView) {
  float elements[12];
  tensor_view<float, 2> const view(elements, {3, 2}, {4, 1});
  static_assert(is_view_of<decltype(view_of(view)), float, 2>);
  EXPECT_THAT(view_of(view).strides(), ElementsAre(4, 1));
  EXPECT_EQ(view_of(view).data(), elements);
}

TEST(TensorView, ThatWritesAlsoReads) {
  float elements[12];
  tensor_view<float const, 2> const reading = tensor_view<float, 2>(elements, {3, 2}, {4, 1});
  EXPECT_EQ(reading.data(), elements);
  EXPECT_THAT(reading.extents(), ElementsAre(3, 2));
  EXPECT_THAT(reading.strides(), ElementsAre(4, 1));
  static_assert(!std::is_convertible_v<tensor_view<float const, 2>, tensor_view<float, 2>>);
  static_assert(!std::is_convertible_v<tensor_view<float, 2>, tensor_view<float, 3>>);
  static_assert(!std::is_convertible_v<tensor_view<float, 2>, tensor_view<double const, 2>>);
}

TEST(TensorView, IsEmptyWhereAnExtentIsZero) {
  EXPECT_TRUE((tensor_view<float, 3>().empty()));
  EXPECT_EQ((tensor_view<float, 3>().data()), nullptr);
  EXPECT_THAT((tensor_view<float, 3>().extents()), ElementsAre(0, 0, 0));
  float element;
  EXPECT_TRUE((tensor_view<float, 3>(&element, {4, 0, 5}).empty()));
  EXPECT_FALSE((tensor_view<float, 3>(&element, {1, 1, 1}).empty()));
}

TEST(TensorView, SaysWhatItCanBeMadeOf) {
  static_assert(TensorLike<tensor_view<float, 2> const&>);
  static_assert(TensorLike<Eigen::Tensor<half, 4, Eigen::RowMajor>&>);
  static_assert(TensorLike<std::vector<double> const&>);
  static_assert(!TensorLike<float> && !TensorLike<float*> && !TensorLike<float[4]>);
  // Nothing to point at before it is evaluated.
  static_assert(!TensorLike<decltype(std::declval<row_major_matrix<float>&>() * 2.f)>);
  static_assert(!TensorLike<decltype(std::declval<Eigen::Tensor<float, 2, Eigen::RowMajor>&>() * 2.f)>);
  static_assert(std::same_as<element_of_t<Eigen::Tensor<half, 4, Eigen::RowMajor> const>, half>);
  static_assert(rank_of<Eigen::Tensor<half, 4, Eigen::RowMajor>> == 4 && rank_of<Eigen::VectorXf const> == 1);
}

TEST(Raise, PutsAxesOfExtentOneInFront) {
  float elements[30];
  tensor_view<float, 2> const matrix(elements, {3, 5}, {10, 1});
  auto const raised = raise<4>(matrix);
  static_assert(is_view_of<decltype(raised), float, 4>);
  EXPECT_THAT(raised.extents(), ElementsAre(1, 1, 3, 5));
  EXPECT_EQ(raised.stride(2), 10);
  EXPECT_EQ(raised.stride(3), 1);
  EXPECT_EQ(&raised(0, 0, 2, 4), &elements[24]);
  EXPECT_FALSE(raised.empty());

  auto const of_one_axis = raise<3>(tensor_view<float const, 1>(elements, {7}));
  static_assert(is_view_of<decltype(of_one_axis), float const, 3>);
  EXPECT_THAT(of_one_axis.extents(), ElementsAre(1, 1, 7));
  EXPECT_EQ(&of_one_axis(0, 0, 6), &elements[6]);
}

TEST(Raise, ChangesNothingAtTheRankItself) {
  float elements[30];
  auto const raised = raise<3>(tensor_view<float, 3>(elements, {8, 3, 5}, {0, 10, 1}));
  EXPECT_THAT(raised.extents(), ElementsAre(8, 3, 5));
  EXPECT_THAT(raised.strides(), ElementsAre(0, 10, 1));
  EXPECT_EQ(raised.data(), elements);
}

}  // namespace
}  // namespace attend
