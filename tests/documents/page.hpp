// SPDX-License-Identifier: BSD-3-Clause
// What the pages' programs have at hand (cmake/page_program.cmake): tensors for attention in which eight query heads
// share two key-value heads. The programs stand in no namespace of attend's, as readers' own do.
#pragma once

#include <gmock/gmock.h>

#include <attend/attend.hpp>

#include <iostream>

class page : public testing::Test {
 protected:
  template <int Rank>
  using tensor = Eigen::Tensor<float, Rank, Eigen::RowMajor>;

  static constexpr attend::index_t batches = 2, heads = 8, key_heads = 2, tokens = 96, dimension = 16;
  tensor<4> q{batches, heads, tokens, dimension}, k{batches, key_heads, tokens, dimension}, v = k, o = q;

  page() { q.setRandom(), k.setRandom(), v.setRandom(), o.setZero(); }
};
