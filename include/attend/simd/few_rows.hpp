// SPDX-License-Identifier: BSD-3-Clause
// Multiplies a few rows by a matrix that is read once, where it lies and in its stored type: reading it is the cost.
//
//   multiply_few              to[r][c] = sum_k from[r][k] * matrix[k][c]     lanes along c; from is broadcast
//   multiply_few_transposed   to[r][n] = sum_k from[r][k] * matrix[n][k]     lanes along k; summed across at the end
//
// `from` is [Rows][stride], stride a multiple of the width, with zeros past the depth. Both products read the matrix
// from its beginning to its end, four rows side by side, since hardware prefetchers follow such streams: products over
// strips of columns, whose sums would stay in registers, were measured at a third of the speed. The sums of the first
// product stay in the level-1 cache.
#pragma once

#include <algorithm>
#include <cstdlib>

#include "../core/machine.hpp"
#include "convert.hpp"
#include "transpose.hpp"

namespace attend::inline ATTEND_TARGET::simd {

namespace detail {

/// Rows of a matrix that are read side by side.
inline constexpr index_t matrix_rows_per_pass = 4;

/// How many rows ahead of their use rows of a matrix are prefetched.
template <Element T>
index_t rows_ahead(index_t stride) {
  return std::max(attend::detail::machine::here().read_ahead /
                      std::max<index_t>(std::abs(stride) * static_cast<index_t>(sizeof(T)), 1),
                  matrix_rows_per_pass);
}

/// sum[r][c] += the products of `MatrixRows` rows of the matrix and elements of `from`, for `columns` columns.
template <int Rows, int MatrixRows, Element T, class A>
void add_matrix_rows(A const* from, index_t from_stride, T const* matrix, index_t stride, index_t ahead,
                     index_t columns, A* sum, index_t sum_stride) {
  vector<A> factor[array_size(Rows)][array_size(MatrixRows)];
  ATTEND_UNROLL for (int r = 0; r < Rows; ++r) {
    ATTEND_UNROLL for (int k = 0; k < MatrixRows; ++k) factor[r][k] = vector<A>(from[r * from_stride + k]);
  }
  auto const step = [&](index_t c, auto const& loaded_from) ATTEND_INLINE_LAMBDA {
    vector<A> total[array_size(Rows)];
    ATTEND_UNROLL for (int r = 0; r < Rows; ++r) total[r] = load(sum + r * sum_stride + c);
    ATTEND_UNROLL for (int k = 0; k < MatrixRows; ++k) {
      T const* const at = matrix + k * stride + c;
      __builtin_prefetch(at + ahead * stride, 0, 3);
      vector<A> const loaded = loaded_from(at);
      ATTEND_UNROLL for (int r = 0; r < Rows; ++r) total[r] = fused_multiply_add<A>(factor[r][k], loaded, total[r]);
    }
    ATTEND_UNROLL for (int r = 0; r < Rows; ++r) store(sum + r * sum_stride + c, total[r]);
  };
  index_t c = 0;
  for (; c + width<A> <= columns; c += width<A>) step(c, [](T const* at) ATTEND_INLINE_LAMBDA { return widen(at); });
  if (c < columns) step(c, [&](T const* at) ATTEND_INLINE_LAMBDA { return widen_part(at, columns - c); });
}

/// sum[r][first + i] = a vector whose lanes add up to the dot product of row r of `from` and row i of the matrix.
template <int Rows, int MatrixRows, Element T, class A>
void dot_matrix_rows(A const* from, index_t from_stride, T const* matrix, index_t stride, index_t ahead, index_t depth,
                     vector<A> (*sum)[width<A>], index_t first) {
  vector<A> total[array_size(Rows)][array_size(MatrixRows)];
  ATTEND_UNROLL for (int r = 0; r < Rows; ++r) {
    ATTEND_UNROLL for (int i = 0; i < MatrixRows; ++i) total[r][i] = vector<A>(A(0));
  }
  auto const step = [&](index_t k, auto const& loaded_from) ATTEND_INLINE_LAMBDA {
    vector<A> own[array_size(Rows)];
    ATTEND_UNROLL for (int r = 0; r < Rows; ++r) own[r] = vector<A>::load_unaligned(from + r * from_stride + k);
    ATTEND_UNROLL for (int i = 0; i < MatrixRows; ++i) {
      T const* const at = matrix + i * stride + k;
      __builtin_prefetch(at + ahead * stride, 0, 3);
      vector<A> const loaded = loaded_from(at);
      ATTEND_UNROLL for (int r = 0; r < Rows; ++r) total[r][i] = fused_multiply_add<A>(own[r], loaded, total[r][i]);
    }
  };
  index_t k = 0;
  for (; k + width<A> <= depth; k += width<A>) step(k, [](T const* at) ATTEND_INLINE_LAMBDA { return widen(at); });
  if (k < depth) step(k, [&](T const* at) ATTEND_INLINE_LAMBDA { return widen_part(at, depth - k); });
  ATTEND_UNROLL for (int r = 0; r < Rows; ++r) {
    ATTEND_UNROLL for (int i = 0; i < MatrixRows; ++i) sum[r][first + i] = total[r][i];
  }
}

}  // namespace detail

/// to[r][c] = sum_k from[r][k] * matrix[k][c]. `matrix` is [depth][columns], rows `stride` apart.
template <int Rows, Element T, class A, Element To>
void multiply_few(A const* from, index_t from_stride, T const* matrix, index_t stride, index_t depth, index_t columns,
                  To* const* to) {
  // The sums of this many columns stay in the level-1 cache beside the rows that are read.
  constexpr index_t panel =
      attend::detail::machine::level_1_bytes / 2 / (index_t{Rows} * static_cast<index_t>(sizeof(A)));
  static_assert(panel % width<A> == 0);
  constexpr int rows_per_pass = static_cast<int>(detail::matrix_rows_per_pass);
  alignas(64) A sum[array_size(Rows * panel)];
  index_t const ahead = detail::rows_ahead<T>(stride);
  for (index_t first = 0; first < columns; first += panel) {
    index_t const count = std::min(panel, columns - first);
    for (int r = 0; r < Rows; ++r) std::fill_n(sum + r * panel, round_up(count, width<A>), A(0));
    index_t k = 0;
    for (; k + rows_per_pass <= depth; k += rows_per_pass)
      detail::add_matrix_rows<Rows, rows_per_pass>(from + k, from_stride, matrix + k * stride + first, stride, ahead,
                                                   count, sum, panel);
    for (; k < depth; ++k)
      detail::add_matrix_rows<Rows, 1>(from + k, from_stride, matrix + k * stride + first, stride, ahead, count, sum,
                                       panel);
    for (int r = 0; r < Rows; ++r) narrow_row(sum + r * panel, to[r] + first, count);
  }
}

/// to[r][n] = sum_k from[r][k] * matrix[n][k]. `matrix` is [rows][depth], rows `stride` apart.
template <int Rows, Element T, class A, Element To>
void multiply_few_transposed(A const* from, index_t from_stride, T const* matrix, index_t stride, index_t rows,
                             index_t depth, To* const* to) {
  constexpr int rows_per_pass = static_cast<int>(detail::matrix_rows_per_pass);
  index_t const ahead = detail::rows_ahead<T>(stride);
  for (index_t first = 0; first < rows; first += width<A>) {
    index_t const count = std::min<index_t>(width<A>, rows - first);
    vector<A> sum[array_size(Rows)][array_size(width<A>)];
    for (auto& of_row : sum) std::fill_n(of_row, width<A>, vector<A>(A(0)));
    index_t n = 0;
    for (; n + rows_per_pass <= count; n += rows_per_pass)
      detail::dot_matrix_rows<Rows, rows_per_pass>(from, from_stride, matrix + (first + n) * stride, stride, ahead,
                                                   depth, sum, n);
    for (; n < count; ++n)
      detail::dot_matrix_rows<Rows, 1>(from, from_stride, matrix + (first + n) * stride, stride, ahead, depth, sum, n);
    for (int r = 0; r < Rows; ++r) {
      vector<A> const total = sum_rows<A>(sum[r]);
      if (count == width<A>)
        narrow(to[r] + first, total);
      else
        narrow_part(to[r] + first, total, count);
    }
  }
}

}  // namespace attend::inline ATTEND_TARGET::simd
