// SPDX-License-Identifier: BSD-3-Clause
// The rows of a problem, cut into parts for systems that gather keys for their queries: a part is a task.
//
//   for_row_parts     cuts all rows (query, head) of each group of `heads` query heads, heads innermost, into parts of
//                     `rows` rows
//   for_block_parts   cuts the tokens of one group into blocks that begin at multiples of their length, and each block
//                     into parts: for segments, blocks, rows of a grid
//
// The last parts are run first: under a causal mask they have the most keys, and a long task that begins last would
// leave threads idle. The cut depends on the shape alone, and so does which rows share a tile
// (engine/softmax/gathered.hpp).
//
// Cost: 2 * (key + value dimension) operations for each row and key; the caller states about how many keys a query has.
#pragma once

#include "problem.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Rows [first, first + count) of a group of query heads; a call with i returns the i-th of them.
struct row_part {
  struct row {
    index_t head, query;
  };

  index_t batch, first_head, heads, first, count;

  row operator()(index_t i) const { return {first_head + (first + i) % heads, (first + i) / heads}; }
  index_t first_query() const { return first / heads; }
  index_t last_query() const { return (first + count - 1) / heads; }
  /// At most `most` of these rows, from the one numbered `from` on.
  row_part part(index_t from, index_t most) const {
    return {batch, first_head, heads, first + from, std::min(most, count - from)};
  }
};

/// Calls body(part) for parts of `rows` rows that hold all rows of the problem.
template <Element T, class E, class Body>
void for_row_parts(problem<T> const& p, index_t heads, index_t rows, index_t keys, E& executor, Body const& body) {
  index_t const groups = p.shape.query_heads / heads, of_group = p.shape.queries * heads;
  index_t const parts = divide_up(of_group, rows), tasks = p.shape.batches * groups * parts;
  attend::detail::parallel_for(executor, tasks, p.cost_of(keys), [&](index_t number) {
    index_t const task = tasks - 1 - number, group = task / parts, first = task % parts * rows;
    body(row_part{group / groups, group % groups * heads, heads, first, std::min(rows, of_group - first)});
  });
}

/// Calls body(block, part) for parts of blocks that hold all of `tokens`, of a group of `heads` query heads. A block
/// has `block` tokens, a part at most `most`.
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
