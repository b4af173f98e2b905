// SPDX-License-Identifier: BSD-3-Clause
// The rows of a problem in parts, for what gathers keys for its queries: a part is a task.
//
//   for_row_parts     all rows (query, head) of each group of `heads` query heads, heads innermost, so many at a time
//   for_block_parts   the tokens of one group in blocks that begin at multiples of their length, and these in parts:
//                     for a segment, a row of a grid, a run of recursion
//
// The last parts come first: under a causal mask they see the most, and should not be left to the end. A part's rows
// depend on the shape alone, and with them what shares a tile (engine/softmax/gathered.hpp).
//
// Cost: 2 * (key + value dimension) operations for each row and key; the caller says about how many keys a query takes.
#pragma once

#include "problem.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Rows [first, first + count) of a group of query heads; called with i, the i-th of them.
struct row_part {
  struct row {
    index_t head, query;
  };

  index_t batch, first_head, heads, first, count;

  row operator()(index_t i) const { return {first_head + (first + i) % heads, (first + i) / heads}; }
  index_t first_query() const { return first / heads; }
  index_t last_query() const { return (first + count - 1) / heads; }
  /// Some of the rows.
  row_part part(index_t from, index_t most) const {
    return {batch, first_head, heads, first + from, std::min(most, count - from)};
  }
};

/// body(part) for all rows, `rows` at a time.
template <Element T, class E, class Body>
void for_row_parts(problem<T> const& p, index_t heads, index_t rows, index_t keys, E& executor, Body const& body) {
  index_t const groups = p.shape.query_heads / heads, of_group = p.shape.queries * heads;
  index_t const parts = divide_up(of_group, rows), tasks = p.shape.batches * groups * parts;
  attend::detail::parallel_for(executor, tasks, p.cost_of(keys), [&](index_t number) {
    index_t const task = tasks - 1 - number, group = task / parts, first = task % parts * rows;
    body(row_part{group / groups, group % groups * heads, heads, first, std::min(rows, of_group - first)});
  });
}

/// body(block, part) for the tokens, `most` of a block at a time, of a group of `heads` query heads.
template <Element T, class E, class Body>
void for_block_parts(problem<T> const& p, index_t heads, key_range tokens, index_t block, index_t most, index_t keys,
                     E& executor, Body const& body) {
  if (tokens.empty()) return;
  index_t const first_block = tokens.first / block, blocks = divide_up(tokens.last, block) - first_block;
  index_t const parts = divide_up(std::min(block, tokens.last), most), tasks = blocks * parts;
  attend::detail::loop_cost const of_token =
      attend::detail::loop_cost::of(2 * heads * keys * (p.shape.key_dimension + p.shape.value_dimension));
  attend::detail::parallel_for(executor, tasks, tokens.count() * of_token, [&](index_t number) {
    index_t const task = tasks - 1 - number, at = first_block + task / parts, first = at * block + task % parts * most;
    key_range const part{std::max(first, tokens.first), std::min({first + most, (at + 1) * block, tokens.last})};
    if (!part.empty()) body(at, part);
  });
}

}  // namespace attend::inline ATTEND_TARGET::engine
