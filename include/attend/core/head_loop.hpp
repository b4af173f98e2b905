// SPDX-License-Identifier: BSD-3-Clause
// The loops over the heads of all batches, and over runs of their tokens, for work beside attention itself that pools,
// projects, ranks or gathers rows.
//
//   for_heads    body(batch, head)                 each head is a task
//   for_tokens   body(batch, head, first, last)    runs of tokens are tasks, each of a few microseconds
//
// Cost: the caller states the cost of one head or one token, which decides how many threads are worth waking
// (core/executor.hpp). How the work is cut into tasks depends on the shape and on that cost, not on the threads.
#pragma once

#include "executor.hpp"

namespace attend::inline ATTEND_TARGET::detail {

template <class E, class Body>
void for_heads(E& executor, index_t batches, index_t heads, loop_cost const& of_head, Body const& body) {
  parallel_for(executor, batches * heads, batches * heads * of_head,
               [&](index_t task) { body(task / heads, task % heads); });
}

template <class E, class Body>
void for_tokens(E& executor, index_t batches, index_t heads, index_t tokens, loop_cost const& of_token,
                Body const& body) {
  // Handing out a task takes about 50 nanoseconds: 2% of this.
  constexpr double nanoseconds_of_task = 2500;
  double const fitting = nanoseconds_of_task / std::max(of_token.nanoseconds(), 1.0);
  index_t const group_size = std::max<index_t>(static_cast<index_t>(fitting), 1), runs = divide_up(tokens, group_size);
  parallel_for(executor, batches * heads * runs, batches * heads * tokens * of_token, [&](index_t task) {
    index_t const head = task / runs, first = task % runs * group_size;
    body(head / heads, head % heads, first, std::min(first + group_size, tokens));
  });
}

}  // namespace attend::inline ATTEND_TARGET::detail
