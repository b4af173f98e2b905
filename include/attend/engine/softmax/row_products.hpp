// SPDX-License-Identifier: BSD-3-Clause
// Products of some rows with all rows of a matrix, the candidates: they rank blocks, regions, clusters and hash
// buckets.
//
//   row_products     products[i][c] = row(i) . matrix[c]              matrix [candidates, dimension]
//   unit_products    products[c][i] = row(i) / |row(i)| . matrix[c]   to choose among the rows, for each candidate
//
// Rows are side by side in lanes (engine/softmax/projection.hpp). row_products hands each row's products to a function
// while they are in a near cache; unit_products writes all products to memory.
//
// Cost: 2 * dimension operations for each row and candidate. Scratch: the products of tile_lanes rows at a time.
#pragma once

#include <cmath>

#include "../../select/top_k.hpp"
#include "../../simd/dot.hpp"
#include "projection.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// How rows that do not fill a vector are multiplied. own_bits: like rows that do, so that the bits of a row's products
/// do not depend on the number of rows. by_count: with the matrix read in place, which is faster for few rows.
enum class row_order { own_bits, by_count };

/// Calls then(i, products) for each row i in [0, count).
template <Element T, class Row, class Then>
void row_products(tensor_view<T const, 2> const& matrix, index_t count, row_order order, Row const& row,
                  Then const& then) {
  using A = accumulation_t<T>;
  using element = std::remove_cvref_t<decltype(*row(index_t{0}))>;
  constexpr index_t lanes = projection<T>::lanes;
  index_t const candidates = matrix.extent(0), most = std::min(count, lanes);
  if (count == 0) return;
  scratch memory;
  projection<T> const product(memory, matrix, most, order == row_order::by_count && count < simd::width<A>);
  A* const products = memory.allocate<A>(most * candidates);
  element const* from[array_size(lanes)];
  A* to[array_size(lanes)];
  for (index_t i = 0; i < most; ++i) to[i] = products + i * candidates;
  for (index_t first = 0; first < count; first += lanes) {
    index_t const group_size = std::min(lanes, count - first);
    for (index_t i = 0; i < group_size; ++i) from[i] = row(first + i);
    product.multiply_transposed(from, to, group_size);
    for (index_t i = 0; i < group_size; ++i) then(first + i, to[i]);
  }
}

/// The k largest of `count` products, as top_k writes them.
template <class A>
index_t top_products(A const* products, index_t count, index_t k, std::int32_t* chosen) {
  if constexpr (std::same_as<A, float>) {
    return top_k(products, count, k, chosen);
  } else {
    scratch memory;
    auto* const scores = memory.allocate<float>(count);
    std::copy_n(products, count, scores);
    return top_k(scores, count, k, chosen);
  }
}

/// The distance, in elements, between the products of two candidates. It is not a power of two, by which all products
/// of a row would fall into one set of each cache.
inline index_t candidate_stride(index_t rows) { return round_up(rows, index_t{16}) + 16; }

/// Writes products[c * candidate_stride(count) + i] for `count` rows, each divided by its length. The products of a row
/// of zeros are 0.
template <Element T>
void unit_products(rows_of<T> const& rows, index_t count, tensor_view<accumulation_t<T> const, 2> const& matrix,
                   float* products) {
  using A = accumulation_t<T>;
  constexpr index_t lanes = simd::tile_lanes<A>;
  scratch memory;
  index_t const candidates = matrix.extent(0), dimension = matrix.extent(1);
  projection<A> const product(memory, matrix, lanes);
  A* const row = memory.allocate<A>(dimension);
  T const* from[array_size(lanes)];
  for (index_t first = 0; first < count; first += lanes) {
    index_t const group_size = std::min(lanes, count - first);
    alignas(64) A factor[array_size(lanes)] = {};
    for (index_t i = 0; i < group_size; ++i) {
      from[i] = rows.row(first + i);
      simd::widen_row(from[i], row, dimension);
      A const length = std::sqrt(simd::dot(row, row, dimension));
      factor[i] = length > 0 ? 1 / length : A(0);
    }
    A const* const in_lanes = product.products_in_lanes(from, group_size);
    for (index_t c = 0; c < candidates; ++c)
      for (index_t i = 0; i < group_size; i += simd::width<A>) {
        alignas(64) A scaled[array_size(simd::width<A>)];
        simd::store(scaled, simd::load(in_lanes + c * lanes + i) * simd::load(factor + i));
        float* const to = products + c * candidate_stride(count) + first + i;
        // With a constant size, the compiler copies a whole vector at once.
        if (group_size - i >= simd::width<A>)
          std::copy_n(scaled, simd::width<A>, to);
        else
          std::copy_n(scaled, group_size - i, to);
      }
  }
}

}  // namespace attend::inline ATTEND_TARGET::engine
