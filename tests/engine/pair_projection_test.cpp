// SPDX-License-Identifier: BSD-3-Clause
// Products of rows and a transposed matrix by pairs, against sums in double: extents that fill no tile, rows at any
// distance, and nothing written or read beside them. Without a matrix unit its emulation computes them.
#include <attend/core/arithmetic_mode.hpp>
#include <attend/engine/softmax/pair_projection.hpp>

#include <gtest/gtest.h>

#include "simd/end_of_memory.hpp"
#include "support/problem.hpp"

namespace attend {
namespace {

/// `apart` rows begin at distances that differ, so that they are copied.
void expect_products(index_t count, index_t rows, index_t depth, bool apart) {
  SCOPED_TRACE(testing::Message() << count << " rows, matrix of " << rows << " x " << depth
                                  << (apart ? ", apart" : ""));
  detail::arithmetic_mode const mode;
  auto const from = test::normal<bfloat16, 2>({2 * count, depth}, 1),
             matrix = test::normal<bfloat16, 2>({rows, depth}, 2);
  test::end_of_memory<bfloat16> const from_at_end(from.elements), matrix_at_end(matrix.elements);
  auto to = test::filled<bfloat16, 2>({count, rows + 1}, bfloat16(7));
  std::vector<bfloat16 const*> read;
  std::vector<bfloat16*> written;
  std::vector<index_t> number;
  for (index_t i = 0; i < count; ++i) {
    number.push_back(apart ? i + i / 3 : count + i);
    read.push_back(from_at_end.data() + number.back() * depth);
    written.push_back(&to.view()(i, 0));
  }
  extend::scratch memory;
  simd::pair_unit unit;
  engine::pair_projection<bfloat16> projection(memory, {matrix_at_end.data(), {rows, depth}});
  projection.multiply_transposed(unit, read.data(), written.data(), count);
  for (index_t i = 0; i < count; ++i) {
    for (index_t n = 0; n < rows; ++n) {
      double sum = 0, size = 0;
      for (index_t k = 0; k < depth; ++k) {
        double const term = static_cast<double>(from.view()(number[static_cast<std::size_t>(i)], k)) *
                            static_cast<double>(matrix.view()(n, k));
        sum += term;
        size += std::abs(term);
      }
      // Each of the additions rounds at most what is summed up so far, and then the sum becomes bfloat16.
      double const in_float = static_cast<double>(depth + 2) * 0x1p-24 * size;
      ASSERT_NEAR(static_cast<double>(to.view()(i, n)), sum, in_float + 0x1p-8 * (std::abs(sum) + in_float));
    }
    ASSERT_EQ(to.view()(i, rows), bfloat16(7));
  }
}

/// Whether code is compiled for a unit that the machine lacks.
bool lacks_unit() { return simd::has_pair_products && !simd::uses_pair_products(); }

TEST(PairProjection, MultipliesByTheTranspose) {
  if (lacks_unit()) GTEST_SKIP() << "this machine does not use products of pairs";
  for (index_t const count : {1, 16, 33, 150})
    for (index_t const rows : {1, 16, 40, 64})
      for (index_t const depth : {1, 32, 40, 96})
        for (bool const apart : {false, true}) expect_products(count, rows, depth, apart);
}

TEST(PairProjection, OfNothingIsNothing) {
  if (lacks_unit()) GTEST_SKIP() << "this machine does not use products of pairs";
  extend::scratch memory;
  simd::pair_unit unit;
  bfloat16 const* none = nullptr;
  bfloat16* nowhere = nullptr;
  engine::pair_projection<bfloat16>(memory, {none, {0, 32}}).multiply_transposed(unit, &none, &nowhere, 0);
}

}  // namespace
}  // namespace attend
