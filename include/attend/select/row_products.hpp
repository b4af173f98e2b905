// SPDX-License-Identifier: BSD-3-Clause
// Products of some rows with all rows of a matrix, the candidates: they rank blocks, regions, clusters and hash
// buckets.
//
//   products[i][c] = row(i) . matrix[c]              matrix [candidates, dimension]
//
// Rows are side by side in lanes (engine/softmax/projection.hpp). Each row's products are handed to a function while
// they are in a near cache.
//
// Cost: 2 * dimension operations for each row and candidate. Scratch: the products of tile_lanes rows at a time.
#pragma once

#include "../engine/softmax/projection.hpp"
#include "top_k.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// How rows that do not fill a vector are multiplied. own_bits: like rows that do, so that the bits of a row's products
/// do not depend on the number of rows. by_count: with the matrix read in place, which is faster for few rows.
enum class row_order { own_bits, by_count };

/// Calls then(i, products) for each row i in [0, count).
template <Element T, class Row, class Then>
void row_products(tensor_view<T const, 2> const& matrix, index_t count, row_order order, Row const& row,
                  Then const& then) {
  using A = accumulation_t<T>;
  using element = std::remove_cvref_t<decltype(*row(index_t{0}))>;
  constexpr index_t lanes = engine::projection<T>::lanes;
  index_t const candidates = matrix.extent(0), most = std::min(count, lanes);
  if (count == 0) return;
  scratch memory;
  engine::projection<T> const product(memory, matrix, most, order == row_order::by_count && count < simd::width<A>);
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

}  // namespace attend::inline ATTEND_TARGET::detail
