// SPDX-License-Identifier: BSD-3-Clause
// Products of some rows with all rows of a matrix: what blocks, regions, clusters and hash buckets are ranked by.
//
//   products[i][c] = row(i) . matrix[c]        matrix [candidates, dimension]
//
// Rows stand in lanes (engine/softmax/projection.hpp), and each is told of its products while they are near.
//
// Cost: 2 * dimension operations for each row and candidate; scratch for the products of some rows.
#pragma once

#include "../../select/top_k.hpp"
#include "projection.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// How rows that do not fill a vector are multiplied: like more of them, so that a row's bits are its own; or with the
/// matrix read as it is, which is the faster where there are no more.
enum class row_order { own_bits, by_count };

/// then(i, products) for each row i of `count`.
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

}  // namespace attend::inline ATTEND_TARGET::engine
