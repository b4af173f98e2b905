// SPDX-License-Identifier: BSD-3-Clause
// Chooses for each query the blocks of keys whose mean key has the largest product with it, and its own block.
//
//   kbar_J = mean of the keys of block J          J = floor(j / block tokens)
//   list   = the top - 1 earlier blocks with the largest q_i . kbar_J, ascending, and the query's own
//
// Ties go to the lower block.
//
// Positions are aligned at the last token. A query with fewer than `top` blocks before its end has all of them.
//
// Cost: keys are read once; 2 * dimension operations for each query and block. Memory: the means.
#pragma once

#include "../engine/pooled_rows.hpp"
#include "../engine/softmax/row_parts.hpp"
#include "row_products.hpp"

namespace attend::inline ATTEND_TARGET::detail {

template <Element T>
class mean_blocks {
 public:
  using A = accumulation_t<T>;

  mean_blocks(engine::problem<T> const& p, index_t block_tokens, index_t top, scratch& memory)
      : p_(p),
        block_tokens_(block_tokens),
        top_(top),
        blocks_(divide_up(p.shape.keys, block_tokens)),
        means_(memory.allocate<A>(p.shape.batches * p.shape.key_heads * blocks_ * p.shape.key_dimension)) {}

  index_t blocks() const { return blocks_; }

  /// The number of a query's own block, or -1 for a query before the first key.
  index_t own_block(index_t query) const {
    index_t const position = query + p_.shape.keys - p_.shape.queries;
    return position < 0 ? -1 : position / block_tokens_;
  }
  /// The number of blocks in a query's list.
  index_t list_size(index_t query) const { return std::min(own_block(query) + 1, top_); }

  template <class E>
  void compute_means(E& executor) const {
    engine::mean_pools(p_.key, blocks_, std::min(block_tokens_, p_.shape.keys),
                       engine::blocks_of(p_.shape.keys, block_tokens_), executor,
                       [&](index_t batch, index_t head, index_t block) { return mean(batch, head, block); });
  }

  /// Writes the list of row i to lists[i * top]. Rows are those of query heads that share a key head.
  void choose(engine::row_part const& rows, std::int32_t* lists) const {
    index_t const blocks = own_block(rows.last_query()) + 1;
    if (blocks <= 0) return;
    index_t const head = rows.first_head / (p_.shape.query_heads / p_.shape.key_heads);
    tensor_view<A const, 2> const means(mean(rows.batch, head, 0), {blocks, p_.shape.key_dimension});
    row_products(
        means, rows.count, row_order::own_bits,
        [&](index_t i) { return engine::rows_of_head(p_.query, rows.batch, rows(i).head, rows(i).query).data; },
        [&](index_t i, A const* products) {
          index_t const own = own_block(rows(i).query);
          if (own < 0) return;
          std::int32_t* const list = lists + i * top_;
          list[top_products(products, own, top_ - 1, list)] = static_cast<std::int32_t>(own);
        });
  }

 private:
  A* mean(index_t batch, index_t head, index_t block) const {
    return means_ + ((batch * p_.shape.key_heads + head) * blocks_ + block) * p_.shape.key_dimension;
  }

  engine::problem<T> const& p_;
  index_t block_tokens_, top_, blocks_;
  A* means_;
};

}  // namespace attend::inline ATTEND_TARGET::detail
