// SPDX-License-Identifier: BSD-3-Clause
// Clusters of queries and keys, which are balanced by construction: each takes the tokens that are most like its
// centroid.
//
//   queries(c), keys(c)   the `most` queries, and keys, with the largest x / |x| . mu_c, ascending; ties to the lower
//   move_centroids        mu_c <- decay mu_c + (1 - decay) / 2 (sum of the x / |x| nearest to it), at length 1
//
// Centroids mu [head, cluster, dimension] have the accumulation type.
//
// Cost: 2 * dimension operations for each token and cluster. Memory: tokens * clusters scores for each head.
#pragma once

#include <cmath>
#include <span>

#include "../engine/softmax/problem.hpp"
#include "../engine/softmax/projection.hpp"
#include "../simd/dot.hpp"
#include "top_k.hpp"

namespace attend::inline ATTEND_TARGET::detail {

template <class A>
void check_centroids(tensor_view<A const, 3> const& centroids, problem_shape const& shape) {
  check_view("centroids", centroids);
  check_extent("centroids", "heads", centroids.extent(0), shape.query_heads, "query");
  check_extent("centroids", "dimension", centroids.extent(2), shape.key_dimension, "query");
}

template <class A>
tensor_view<A const, 2> centroids_of(tensor_view<A const, 3> const& centroids, index_t head) {
  return {centroids.data() + head * centroids.stride(0),
          {centroids.extent(1), centroids.extent(2)},
          {centroids.stride(1), 1}};
}

/// The distance, in elements, between the products of two candidates. It is not a power of two, by which all products
/// of a row would fall into one set of each cache.
inline index_t candidate_stride(index_t rows) { return round_up(rows, index_t{16}) + 16; }

/// Writes products[c * candidate_stride(count) + i], of row i divided by its length and matrix[c], for `count` rows.
/// The products of a row of zeros are 0.
template <Element T>
void unit_products(engine::rows_of<T> const& rows, index_t count, tensor_view<accumulation_t<T> const, 2> const& matrix,
                   float* products) {
  using A = accumulation_t<T>;
  constexpr index_t lanes = simd::tile_lanes<A>;
  scratch memory;
  index_t const candidates = matrix.extent(0), dimension = matrix.extent(1);
  engine::projection<A> const product(memory, matrix, lanes);
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

/// The members of each cluster of a head: the queries and keys that are most like its centroid.
template <Element T>
class cluster_members {
 public:
  using A = accumulation_t<T>;

  cluster_members(engine::problem<T> const& p, tensor_view<A const, 2> const& centroids, index_t most, index_t batch,
                  index_t head, scratch& memory)
      : queries_(p.query, p.shape.queries, batch, head, centroids, most, memory),
        keys_(p.key, p.shape.keys, batch, head / (p.shape.query_heads / p.shape.key_heads), centroids, most, memory) {}

  /// They are valid until the next call.
  std::span<std::int32_t const> queries(index_t cluster) const { return queries_.members(cluster); }
  std::span<std::int32_t const> keys(index_t cluster) const { return keys_.members(cluster); }

 private:
  struct side {
    side(tensor_view<T const, 4> const& tokens, index_t token_count, index_t batch, index_t head,
         tensor_view<A const, 2> const& centroids, index_t most_members, scratch& memory)
        : count(token_count),
          most(most_members),
          products(memory.allocate<float>(centroids.extent(0) * candidate_stride(count))),
          chosen(memory.allocate<std::int32_t>(std::min(most, count))) {
      unit_products(engine::rows_of_head(tokens, batch, head, 0), count, centroids, products);
    }

    std::span<std::int32_t const> members(index_t cluster) const {
      index_t const found = top_k(products + cluster * candidate_stride(count), count, most, chosen);
      return {chosen, static_cast<std::size_t>(found)};
    }

    index_t count, most;
    float* products;
    std::int32_t* chosen;
  };

  side queries_, keys_;
};

/// One step of online k-means on the centroids of a head, with all queries and keys.
template <Element T>
void move_centroids(tensor_view<accumulation_t<T>, 3> const& all, tensor_view<T const, 4> const& query,
                    tensor_view<T const, 4> const& key, index_t head, double decay) {
  using A = accumulation_t<T>;
  scratch memory;
  tensor_view<A const, 2> const own = centroids_of<A>(all, head);
  index_t const clusters = own.extent(0), dimension = own.extent(1);
  A* const sums = memory.allocate<A>(clusters * dimension);
  A* const row = memory.allocate<A>(dimension);
  std::fill_n(sums, clusters * dimension, A(0));
  if (clusters == 0) return;
  auto const add = [&](tensor_view<T const, 4> const& tokens, index_t batch, index_t tokens_head) {
    index_t const count = tokens.extent(2);
    scratch memory_of_tokens;
    auto* const products = memory_of_tokens.allocate<float>(clusters * candidate_stride(count));
    auto const rows = engine::rows_of_head(tokens, batch, tokens_head, 0);
    unit_products(rows, count, own, products);
    for (index_t i = 0; i < count; ++i) {
      index_t nearest = 0;
      for (index_t c = 1; c < clusters; ++c)
        if (products[c * candidate_stride(count) + i] > products[nearest * candidate_stride(count) + i]) nearest = c;
      simd::widen_row(rows.row(i), row, dimension);
      A const length = std::sqrt(simd::dot(row, row, dimension));
      for (index_t d = 0; d < dimension && length > 0; ++d) sums[nearest * dimension + d] += row[d] / length;
    }
  };
  for (index_t batch = 0; batch < query.extent(0); ++batch) {
    add(query, batch, head);
    add(key, batch, head / (query.extent(1) / key.extent(1)));
  }
  for (index_t c = 0; c < clusters; ++c) {
    A* const to = sums + c * dimension;
    for (index_t d = 0; d < dimension; ++d)
      to[d] = static_cast<A>(decay) * own(c, d) + static_cast<A>((1 - decay) / 2) * to[d];
    A const length = std::sqrt(simd::dot(to, to, dimension));
    for (index_t d = 0; d < dimension; ++d) all(head, c, d) = length > 0 ? to[d] / length : own(c, d);
  }
}

}  // namespace attend::inline ATTEND_TARGET::detail
