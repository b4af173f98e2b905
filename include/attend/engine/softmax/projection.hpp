// SPDX-License-Identifier: BSD-3-Clause
// Multiplies rows by a matrix, for attention that folds a head's projection into its queries, its keys or its output:
//
//   multiply              to[row][c] = sum_k from[row][k] * matrix[k][c]       matrix [depth, columns]
//   multiply_transposed   to[row][n] = sum_k from[row][k] * matrix[n][k]       matrix [rows, depth]
//
// Rows that fill a vector are side by side in its lanes, and the products are the two products of attention, with the
// matrix in place of values and keys. The matrix is read once for every tile_lanes rows; it is first widened and padded
// in scratch where its elements have 16 bits or its extents do not fill register tiles. For fewer rows than a vector
// has lanes, reading the matrix is the cost: it is read in place (simd/few_rows.hpp).
#pragma once

#include "../../simd/few_rows.hpp"
#include "../../simd/pack.hpp"
#include "tile.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <Element T>
class projection {
 public:
  using A = accumulation_t<T>;
  static constexpr index_t lanes = simd::tile_lanes<A>;

  /// Prepares products of `count` rows, and allocates the scratch that they need. `few` says whether the matrix is read
  /// in place; by default it is where the rows do not fill a vector. It decides the order of the sums in
  /// multiply_transposed: a caller whose results must not depend on the number of rows sets it.
  projection(scratch& memory, tensor_view<T const, 2> const& matrix, index_t count)
      : projection(memory, matrix, count, count < simd::width<A>) {}
  projection(scratch& memory, tensor_view<T const, 2> const& matrix, index_t count, bool few)
      : matrix_(matrix), count_(count), few_(few) {
    if (few_) {
      packed_ = memory.allocate<A>(max_rows * few_stride());
      return;
    }
    index_t const padded_rows = std::max<index_t>(rows(), simd::register_rows);
    packed_ = memory.allocate<A>(std::max(rows(), columns()) * lanes);
    product_ = memory.allocate<A>(std::max(padded_rows, padded_columns()) * lanes);
    if constexpr (std::same_as<T, A>)
      if (rows() == padded_rows && columns() == padded_columns()) {
        readable_ = {matrix.data(), matrix.stride(0)};
        return;
      }
    A* const copy = memory.allocate<A>(padded_rows * padded_columns());
    std::fill_n(copy, padded_rows * padded_columns(), A(0));
    for (index_t row = 0; row < rows(); ++row)
      simd::widen_row(matrix.data() + row * matrix.stride(0), copy + row * padded_columns(), columns());
    readable_ = {copy, padded_columns()};
  }

  /// from[row] has as many elements as the matrix has rows, to[row] as many as it has columns.
  template <Element From, Element To>
  void multiply(From const* const* from, To* const* to) const {
    if (few_)
      for_few(from, to, count_, rows(), [&]<int Rows>(To* const* written) {
        simd::multiply_few<Rows>(packed_, few_stride(), matrix_.data(), matrix_.stride(0), rows(), columns(), written);
      });
    else
      for_lanes(from, to, count_, rows(), columns(), [&](int vectors) {
        block_prefetch none;
        multiply_values(vectors, readable_, rows(), packed_, vectors * simd::width<A>, padded_columns(), product_, none,
                        true);
      });
  }

  /// from[row] has as many elements as the matrix has columns, to[row] as many as it has rows.
  template <Element From, Element To>
  void multiply_transposed(From const* const* from, To* const* to) const {
    multiply_transposed(from, to, count_);
  }
  /// The same for fewer rows than the constructor was given.
  template <Element From, Element To>
  void multiply_transposed(From const* const* from, To* const* to, index_t count) const {
    if (few_)
      for_few(from, to, count, columns(), [&]<int Rows>(To* const* written) {
        simd::multiply_few_transposed<Rows>(packed_, few_stride(), matrix_.data(), matrix_.stride(0), rows(), columns(),
                                            written);
      });
    else
      for_lanes(from, to, count, columns(), rows(), [&](int vectors) { multiply_packed_keys(vectors); });
  }

  /// The same for up to `lanes` rows, with the products in lanes, [matrix rows][lanes]; they are valid until the next
  /// call. It requires a projection with `few` false.
  template <Element From>
  A const* products_in_lanes(From const* const* from, index_t count) const {
    From const* read[array_size(lanes)] = {};
    std::copy_n(from, count, read);
    simd::pack_columns(read, static_cast<int>(lanes), columns(), packed_);
    multiply_packed_keys(simd::register_vectors);
    return product_;
  }

 private:
  static constexpr int max_rows = 4;

  void multiply_packed_keys(int vectors) const {
    simd::vector<A> peak[simd::register_vectors];
    for (auto& most : peak) most = simd::vector<A>(A(0));
    block_prefetch none;
    index_t const readable = std::max<index_t>(rows(), simd::register_rows);
    multiply_keys(vectors,
                  key_work<A>{readable_, readable, {0, readable}, packed_, columns(), vectors * simd::width<A>},
                  product_, peak, none);
  }

  index_t rows() const { return matrix_.extent(0); }
  index_t columns() const { return matrix_.extent(1); }
  index_t padded_columns() const { return round_up(columns(), simd::register_rows); }
  index_t few_stride() const { return round_up(std::max(rows(), columns()), simd::width<A>); }

  /// Packs max_rows rows at a time, then the remaining rows one by one, and calls product<Rows>(to), which reads them
  /// from packed_.
  template <class From, class To, class Product>
  void for_few(From const* const* from, To* const* to, index_t count, index_t depth, Product const& product) const {
    for (index_t first = 0; first < count;) {
      index_t const group_size = count - first >= max_rows ? max_rows : 1;
      for (index_t r = 0; r < group_size; ++r) {
        A* const row = packed_ + r * few_stride();
        simd::widen_row(from[first + r], row, depth);
        std::fill(row + depth, row + few_stride(), A(0));
      }
      if (group_size == max_rows)
        product.template operator()<max_rows>(to + first);
      else
        product.template operator()<1>(to + first);
      first += group_size;
    }
  }

  template <class From, class To, class Product>
  void for_lanes(From const* const* from, To* const* to, index_t count, index_t depth, index_t width,
                 Product const& product) const {
    static_assert(std::same_as<accumulation_t<From>, A> && std::same_as<accumulation_t<To>, A>);
    alignas(64) A one[array_size(lanes)];
    std::fill_n(one, lanes, A(1));
    for (index_t first = 0; first < count; first += lanes) {
      index_t const group_size = std::min(lanes, count - first);
      int const used = static_cast<int>(round_up(group_size, simd::width<A>));
      From const* read[array_size(lanes)] = {};
      To* written[array_size(lanes)] = {};
      std::copy_n(from + first, group_size, read);
      std::copy_n(to + first, group_size, written);
      simd::pack_columns(read, used, depth, packed_);
      product(used / simd::width<A>);
      simd::unpack_columns<To>(product_, used, width, one, written);
    }
  }

  tensor_view<T const, 2> matrix_;
  index_t count_;
  bool few_;
  rows_of<A> readable_;
  A* packed_ = nullptr;
  A* product_ = nullptr;
};

}  // namespace attend::inline ATTEND_TARGET::engine
