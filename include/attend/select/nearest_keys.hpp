// SPDX-License-Identifier: BSD-3-Clause
// The nearest keys of many queries by inner product, exactly: what an index of keys is built from.
//
//   nearest(i) = the k keys j of largest query(i) . key(j), in descending order, equal ones in that of their tokens
//
// Queries are side by side in lanes (engine/softmax/projection.hpp), some tiles of them for each block of keys, which
// is widened once for all. A product is looked at where the tile left it: only those above a query's k-th largest so
// far are copied, into a list that is cut to k whenever it is full. Of n keys in any order that is k * ln(n / k) of
// them, so what is done beside the products hardly counts, and nothing is as long as the keys.
//
// Cost: 2 * dimension operations for each query and key. Scratch, for each thread: a block of keys in the accumulation
// type, and 2 * k scores and tokens for each of some hundred queries.
#pragma once

#include "../cache/quantize.hpp"
#include "../engine/softmax/projection.hpp"
#include "top_k.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// The largest products of a query so far, in the order of their keys.
template <class A>
class nearest_list {
 public:
  nearest_list() = default;
  nearest_list(scratch& memory, index_t k)
      : k_(k), score_(memory.allocate<float>(2 * k)), token_(memory.allocate<std::int32_t>(2 * k)) {}

  /// A product above it belongs to the list.
  A bound() const { return bound_; }

  void add(A product, index_t token) {
    score_[count_] = static_cast<float>(product);
    token_[count_++] = static_cast<std::int32_t>(token);
    if (count_ == 2 * k_) cut();
  }

  /// Writes the tokens by descending products; where there are fewer than k, the others are -1.
  void write(std::int32_t* to) {
    index_t const found = top_k(score_, count_, k_, to, selection::top_k_order::score);
    for (index_t i = 0; i < found; ++i) to[i] = token_[to[i]];
    std::fill(to + found, to + k_, -1);
  }

 private:
  void cut() {
    scratch memory;
    auto* const chosen = memory.allocate<std::int32_t>(k_);
    top_k(score_, count_, k_, chosen);
    float least = infinity<float>;
    for (index_t i = 0; i < k_; ++i) {
      score_[i] = score_[chosen[i]];
      token_[i] = token_[chosen[i]];
      least = std::min(least, score_[i]);
    }
    count_ = k_;
    bound_ = static_cast<A>(least);
  }

  index_t k_ = 0, count_ = 0;
  float* score_ = nullptr;
  std::int32_t* token_ = nullptr;
  A bound_ = -infinity<A>;
};

/// Writes the nearest of the first `tokens` keys of a head to to[query][k], k >= 1: for `queries` queries, of which
/// query(i) gives the elements. Keys whose product is NaN or -inf are nobody's.
template <KeyValueSource Cache, class Query, class E>
void nearest_keys(Cache const& cache, index_t sequence, index_t head, index_t tokens, index_t queries,
                  Query const& query, index_t k, std::int32_t* to, E& executor) {
  using A = storage_accumulation_t<typename Cache::key_element>;
  using product_type = engine::projection<A>;
  // Widening a block of keys costs one hundredth of its products with so many queries.
  constexpr index_t tiles = 8, queries_of_task = tiles * product_type::lanes, block = 512, step = simd::width<A>;
  index_t const dimension = cache.key_dimension(), padded = round_up(dimension, simd::register_rows);
  index_t const tasks = divide_up(queries, queries_of_task);
  loop_cost const cost{2 * static_cast<double>(queries * tokens) * static_cast<double>(dimension)};
  parallel_for(executor, tasks, cost, [&](index_t task) {
    index_t const first_query = task * queries_of_task, count = std::min(queries_of_task, queries - first_query);
    scratch memory;
    auto* const list = memory.allocate<nearest_list<A>>(queries_of_task);
    for (index_t i = 0; i < count; ++i) list[i] = nearest_list<A>(memory, k);
    A* const bound = memory.allocate<A>(queries_of_task);
    // Lanes past the last query find nothing.
    std::fill_n(bound, queries_of_task, infinity<A>);
    std::fill_n(bound, count, -infinity<A>);
    A* const keys = memory.allocate<A>(block * padded);
    std::fill_n(keys, block * padded, A(0));
    for (index_t first = 0; first < tokens; first += block) {
      index_t const here = std::min(block, tokens - first);
      for (index_t i = 0; i < here;) {
        auto const run = cache.rows(sequence, head, first + i);
        for (index_t row = 0; row < run.count && i < here; ++row, ++i) read_key(run, row, dimension, keys + i * padded);
      }
      scratch of_block;
      tensor_view<A const, 2> const matrix(keys, {round_up(here, simd::register_rows), dimension}, {padded, 1});
      product_type const product(of_block, matrix, product_type::lanes, false);
      for (index_t tile = 0; tile * product_type::lanes < count; ++tile) {
        index_t const at = tile * product_type::lanes;
        A const* from[array_size(product_type::lanes)];
        index_t const some = std::min(count - at, product_type::lanes);
        for (index_t i = 0; i < some; ++i) from[i] = query(first_query + at + i);
        A const* const products = product.products_in_lanes(from, some);
        for (index_t key = 0; key < here; ++key)
          for (index_t lane = 0; lane < product_type::lanes; lane += step) {
            A const* const of_key = products + key * product_type::lanes + lane;
            std::uint32_t above = simd::lane_bits<A>(simd::load(of_key) > simd::load(bound + at + lane));
            for (; above != 0; above &= above - 1) {
              index_t const which = std::countr_zero(above), i = at + lane + which;
              list[i].add(of_key[which], first + key);
              bound[i] = list[i].bound();
            }
          }
      }
    }
    for (index_t i = 0; i < count; ++i) list[i].write(to + (first_query + i) * k);
  });
}

}  // namespace attend::inline ATTEND_TARGET::detail
