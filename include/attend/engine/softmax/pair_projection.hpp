// SPDX-License-Identifier: BSD-3-Clause
// Multiplies rows by the transpose of a matrix on a matrix unit (simd/pair_products.hpp), all in bfloat16:
//
//   to[row][n] = sum_k from[row][k] * matrix[n][k]       matrix [rows, depth]
//
// Sums are in float, and rounded to bfloat16 at the end. Rows are the unit's left operand as they lie in memory. The
// matrix is packed once, in pairs of elements, 32 of its rows beside each other, which stay in the level-1 cache while
// the rows pass: then each tile that the unit loads serves two products.
#pragma once

#include "listed_pair_rows.hpp"
#include "pair_multiply.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// T is bfloat16.
template <Element T>
class pair_projection {
 public:
  pair_projection(scratch& memory, tensor_view<T const, 2> const& matrix)
      : rows_(matrix.extent(0)), from_(memory, block_rows, matrix.extent(1)) {
    groups_ = divide_up(rows_, lanes);
    matrix_ = memory.allocate<simd::pair_bits>(groups_ * from_.depth() / 2 * lanes);
    products_ = memory.allocate<float>(block_rows * lanes);
    scratch own;
    auto* const copies = own.allocate<std::uint16_t>((lanes + 1) * from_.depth());
    std::uint16_t* const zeros = copies + lanes * from_.depth();
    std::fill_n(zeros, from_.depth(), std::uint16_t(0));
    for (index_t group = 0; group < groups_; ++group) {
      void const* row[array_size(lanes)];
      for (index_t lane = 0; lane < lanes; ++lane) {
        std::uint16_t* const to = copies + lane * from_.depth();
        index_t const number = group * lanes + lane;
        if (number < rows_)
          simd::copy_row<simd::pair_unit>(matrix.data() + number * matrix.stride(0), matrix.extent(1), to);
        row[lane] = number < rows_ ? to : zeros;
      }
      simd::transpose_pairs(row, lanes, from_.depth() / 2, group_of(group), lanes);
      simd::order_columns<simd::pair_unit>(group_of(group), from_.depth() / 2, lanes, lanes);
    }
  }

  /// from[row] has as many elements as the matrix has columns, to[row] as many as it has rows.
  void multiply_transposed(simd::pair_unit& unit, T const* const* from, T* const* to, index_t count) {
    block_prefetch none;
    for (index_t first = 0; first < count; first += block_rows) {
      index_t const rows = std::min(block_rows, count - first);
      void const* row[array_size(block_rows)];
      std::copy_n(from + first, rows, row);
      simd::pair_matrix const block = from_.read(row, rows);
      for (index_t group = 0; group < groups_; ++group) {
        multiply_pair_rows<vectors>(
            unit, block, round_up(rows, simd::pair_tile), group_of(group), from_.depth(), products_, true, none, [] {},
            [](index_t) {});
        index_t const column = group * lanes, columns = std::min(lanes, rows_ - column);
        for (index_t i = 0; i < rows; ++i) simd::narrow_row(products_ + i * lanes, to[first + i] + column, columns);
      }
    }
  }

 private:
  static constexpr int vectors = 2;
  static constexpr index_t lanes = vectors * simd::width<float>;
  /// So many rows are copied at a time, if they are: few enough to stay in a level-2 cache.
  static constexpr index_t block_rows = 128;

  simd::pair_bits* group_of(index_t group) const { return matrix_ + group * (from_.depth() / 2 * lanes); }

  index_t rows_, groups_ = 0;
  listed_pair_rows from_;
  simd::pair_bits* matrix_ = nullptr;  // [group][depth / 2][lanes]
  float* products_ = nullptr;          // [row][lanes]
};

}  // namespace attend::inline ATTEND_TARGET::engine
