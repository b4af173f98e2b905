// Rows times a matrix, as register-tile products with the rows in the lanes:
//
//   multiply              to[row][c] = sum_k from[row][k] * matrix[k][c]       matrix [depth, columns]
//   multiply_transposed   to[row][n] = sum_k from[row][k] * matrix[n][k]       matrix [rows, depth]
//
// These are the two products of attention with the matrix in place of values and keys: what folds a head's projection
// into its queries, its keys or its output. Each matrix is read once for every tile_lanes rows; matrices of 16 bits, or
// whose extents do not fill register tiles, are widened and padded in scratch first.
#pragma once

#include "../simd/pack.hpp"
#include "tile.hpp"

namespace attend::engine {

/// A matrix as the products read it: in A, at least register_rows rows, columns readable up to whole register tiles.
template <Element T>
class projection {
 public:
  using A = accumulation_t<T>;
  static constexpr index_t lanes = simd::tile_lanes<A>;

  projection(scratch& memory, tensor_view<T const, 2> const& matrix)
      : rows_(matrix.extent(0)), columns_(matrix.extent(1)) {
    index_t const padded_rows = std::max<index_t>(rows_, simd::register_rows);
    packed_ = memory.take<A>(std::max(rows_, columns_) * lanes);
    product_ = memory.take<A>(std::max(padded_rows, padded_columns()) * lanes);
    if constexpr (std::same_as<T, A>)
      if (rows_ == padded_rows && columns_ == padded_columns()) {
        matrix_ = {matrix.data(), matrix.stride(0)};
        return;
      }
    A* const copy = memory.take<A>(padded_rows * padded_columns());
    std::fill_n(copy, padded_rows * padded_columns(), A(0));
    for (index_t row = 0; row < rows_; ++row)
      simd::widen_row(matrix.data() + row * matrix.stride(0), copy + row * padded_columns(), columns_);
    matrix_ = {copy, padded_columns()};
  }

  /// from[row] has matrix rows many elements, to[row] matrix columns many.
  template <Element From, Element To>
  void multiply(From const* const* from, To* const* to, index_t count) const {
    for_lanes(from, to, count, rows_, columns_, [&]<int Vectors>() {
      std::fill_n(product_, padded_columns() * Vectors * simd::width<A>, A(0));
      block_prefetch none;
      multiply_values<Vectors>(matrix_, rows_, packed_, padded_columns(), product_, none);
    });
  }

  /// from[row] has matrix columns many elements, to[row] matrix rows many.
  template <Element From, Element To>
  void multiply_transposed(From const* const* from, To* const* to, index_t count) const {
    for_lanes(from, to, count, columns_, rows_, [&]<int Vectors>() {
      simd::vector<A> peak[Vectors];
      for (auto& most : peak) most = simd::vector<A>(A(0));
      block_prefetch none;
      multiply_keys<Vectors>(matrix_, std::max<index_t>(rows_, simd::register_rows), packed_, columns_, product_, peak,
                             none);
    });
  }

 private:
  index_t padded_columns() const { return round_up(columns_, simd::register_rows); }

  template <class From, class To, class Product>
  void for_lanes(From const* const* from, To* const* to, index_t count, index_t depth, index_t width,
                 Product const& product) const {
    static_assert(std::same_as<accumulation_t<From>, A> && std::same_as<accumulation_t<To>, A>);
    alignas(64) A one[lanes];
    std::fill_n(one, lanes, A(1));
    for (index_t first = 0; first < count; first += lanes) {
      index_t const rows = std::min(lanes, count - first);
      int const used = static_cast<int>(round_up(rows, simd::width<A>));
      From const* read[lanes] = {};
      To* written[lanes] = {};
      std::copy_n(from + first, rows, read);
      std::copy_n(to + first, rows, written);
      simd::pack_columns(read, used, depth, packed_);
      switch (used / simd::width<A>) {
        case 1:
          product.template operator()<1>();
          break;
        case 2:
          product.template operator()<2>();
          break;
        default:
          product.template operator()<3>();
      }
      simd::unpack_columns<To>(product_, used, width, one, written);
    }
  }
  static_assert(simd::register_vectors == 3);

  index_t rows_, columns_;
  rows_of<A> matrix_;
  A* packed_;
  A* product_;
};

}  // namespace attend::engine
