// SPDX-License-Identifier: BSD-3-Clause
// Calls with Eigen tensors and matrices: outputs that are returned, and leading axes that are left out.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/core/eigen_tensor.hpp>
#include <attend/policy/mask/causal.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

test::sizes const grouped{.batches = 2,
                          .query_heads = 6,
                          .key_heads = 3,
                          .value_heads = 1,
                          .queries = 37,
                          .keys = 141,
                          .key_dimension = 12,
                          .value_dimension = 20};

template <class T, int Rank>
Eigen::Tensor<T, Rank, Eigen::RowMajor> eigen_tensor(test::tensor<T, Rank> const& tensor) {
  Eigen::array<Eigen::Index, Rank> extents;
  for (int axis = 0; axis < Rank; ++axis)
    extents[static_cast<std::size_t>(axis)] = tensor.extents[static_cast<std::size_t>(axis)];
  Eigen::Tensor<T, Rank, Eigen::RowMajor> result(extents);
  std::copy(tensor.elements.begin(), tensor.elements.end(), result.data());
  return result;
}

template <class T, int Rank>
std::vector<T> elements(Eigen::Tensor<T, Rank, Eigen::RowMajor> const& tensor) {
  return {tensor.data(), tensor.data() + tensor.size()};
}

TEST(EigenTensors, MayBeReturnedAndWritten) {
  auto const in = test::random_inputs<float>(grouped, 1);
  auto const expected = test::attend_to(in, causal{});
  auto const q = eigen_tensor(in.query), k = eigen_tensor(in.key), v = eigen_tensor(in.value);
  Eigen::Tensor<float, 4, Eigen::RowMajor> const returned = softmax_attention(q, k, v, causal{});
  EXPECT_EQ(returned.dimension(0), 2);
  EXPECT_EQ(returned.dimension(1), 6);
  EXPECT_EQ(returned.dimension(2), 37);
  EXPECT_EQ(returned.dimension(3), 20);
  EXPECT_TRUE(test::same_bits(elements(returned), expected.output.elements));

  Eigen::Tensor<float, 4, Eigen::RowMajor> written(2, 6, 37, 20);
  Eigen::Tensor<float, 3, Eigen::RowMajor> lse(2, 6, 37);
  Eigen::Tensor<float, 4, Eigen::RowMajor> pairs(2, 6, 37, 141);
  softmax_attention(q, k, v, written, causal{}, log_sum_exp{lse}, weights{pairs});
  EXPECT_TRUE(test::same_bits(elements(written), expected.output.elements));
  EXPECT_TRUE(test::same_bits(elements(lse), expected.log_sum_exp.elements));
  EXPECT_TRUE(test::same_bits(elements(pairs), expected.weights.elements));
}

// Three axes are one batch, a matrix is one head.
TEST(EigenTensors, MayLeaveOutLeadingAxes) {
  auto const in = test::random_inputs<float>({.query_heads = 4,
                                              .key_heads = 2,
                                              .value_heads = 1,
                                              .queries = 9,
                                              .keys = 21,
                                              .key_dimension = 6,
                                              .value_dimension = 5},
                                             1);
  auto const expected = test::attend_to(in);
  tensor_view<float const, 3> const q(in.query.elements.data(), {4, 9, 6}), k(in.key.elements.data(), {2, 21, 6});
  tensor_view<float const, 2> const v(in.value.elements.data(), {21, 5});
  auto const returned = softmax_attention(q, k, v);
  static_assert(std::same_as<decltype(returned), Eigen::Tensor<float, 3, Eigen::RowMajor> const>);
  EXPECT_TRUE(test::same_bits(elements(returned), expected.output.elements));

  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  matrix const query = Eigen::Map<matrix const>(in.query.elements.data(), 9, 6);
  matrix const key = Eigen::Map<matrix const>(in.key.elements.data(), 21, 6);
  matrix const value = Eigen::Map<matrix const>(in.value.elements.data(), 21, 5);
  matrix output(9, 5), pairs(9, 21);
  Eigen::VectorXf lse(9);
  softmax_attention(query, key, value, output, log_sum_exp{lse}, weights{pairs});
  for (index_t i = 0; i < 9; ++i) {
    for (index_t c = 0; c < 5; ++c) EXPECT_EQ(output(i, c), expected.output.view()(0, 0, i, c));
    for (index_t j = 0; j < 21; ++j) EXPECT_EQ(pairs(i, j), expected.weights.view()(0, 0, i, j));
    EXPECT_EQ(lse(i), expected.log_sum_exp.view()(0, 0, i));
  }
}

}  // namespace
}  // namespace attend
