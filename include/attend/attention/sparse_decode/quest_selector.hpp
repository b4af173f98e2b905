// SPDX-License-Identifier: BSD-3-Clause
// Quest: pages whose keys could have the largest logits, by a bound that each page's channels give.
//
//   max_pc, min_pc = the largest and the least of channel c among the keys of page p
//   u_p = sum_c max(q_c max_pc, q_c min_pc) >= q . k_j for every key j of p
//   o   = attention to the K pages of largest u, K = max(3, budget / page tokens)
//
// The authors' code rounds that quotient down, and means budgets that are multiples of a page. Here it is rounded up,
// so that a list has at least the tokens asked for; budget_rounding::down is theirs.
//
// Keys are those that the cache has, rotated. In the paper each query head has its own pages (list_of::query_head); one
// list for the heads that share keys, by the largest of their bounds, reads each page once for all of them. The paper
// leaves the first two layers dense, and prefill: that is the caller's choice.
//
// Bytes of a step, for one key-value head and n tokens: 2 * dimension / page tokens numbers for each token, and the
// chosen keys and values. Pages of 16 in bfloat16: an eighth of the keys' bytes, 1/16 of all.
//
// Jiaming Tang et al.: Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference, 2024.
#pragma once

#include "../../select/page_selector.hpp"
#include "selected_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Selects pages by the bounds of their keys. S is the keys' own element type, or float for quantized keys.
///
///     quest_selector<float> selector(shape, 32, 4096, quest_pages({.tokens = 1024}));  // query heads, tokens
///     selector.update(cache);
///     selected_attention(q, cache, selector, o);
template <Element S>
using quest_selector = page_selector<key_bounds, S>;

/// Gives the paper's choice of pages: as many as the budget's tokens, rounded as `rounding` says, and at least 3.
///
///     page_selector_options const choice = quest_pages({.tokens = 1024}, 16, list_of::query_head);
inline page_selector_options quest_pages(selection_budget const& budget, index_t page_tokens = 16,
                                         list_of lists = list_of::key_value_head,
                                         budget_rounding rounding = budget_rounding::up) {
  return {.page_tokens = page_tokens,
          .budget = budget,
          .min_pages = 3,
          .lists = lists,
          .score = score_of::largest,
          .rounding = rounding};
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
