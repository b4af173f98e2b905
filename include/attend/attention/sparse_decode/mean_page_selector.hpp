// SPDX-License-Identifier: BSD-3-Clause
// Decoding with pages chosen by their mean key: what the mean of a page's logits is.
//
//   kbar_p = mean of the keys of page p          q . kbar_p = mean over the page of q . k_j
//
//   moba_blocks       blocks of a few hundred tokens; the k blocks of largest q . kbar for each query head, of which
//                     the current block is one in any case (MoBA, whose gate has no scale)
//   kinetics_blocks   blocks of 16 between the sinks and the last tokens, by the mean over the block and over the query
//                     heads that share keys (Kinetics)
//
// Keys are those that the cache has, rotated. Blocks begin at multiples of their size also where sinks are fewer: a
// block that has some of them still counts with all of its tokens. One list of MoBA for the heads that share keys, by
// the largest of their scores, reads each block once for all of them (list_of::key_value_head).
//
// A mean over many keys says little of one among them: blocks of 512 find a topic, not a needle.
//
// Bytes of a step: one number in `page tokens` for each of the keys', and the chosen keys and values.
//
// Enzhe Lu et al.: MoBA: Mixture of Block Attention for Long-Context LLMs, 2025. Ranajoy Sadhukhan et al.: Kinetics:
// Rethinking Test-Time Scaling Laws, 2025.
#pragma once

#include "../../select/page_selector.hpp"
#include "selected_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Selects pages by their mean key. S is the keys' own element type, or float for quantized keys.
///
///     mean_page_selector<float> selector(shape, 32, 4096, moba_blocks({.tokens = 1536}));  // query heads, tokens
///     selector.update(cache);
///     selected_attention(q, cache, selector, o);
template <Element S>
using mean_page_selector = page_selector<mean_key, S>;

/// Gives MoBA's choice: as many blocks as the budget's tokens, rounded up, the current one among them. The paper counts
/// blocks.
///
///     page_selector_options const three_blocks = moba_blocks({.tokens = 1536}, 512);
inline page_selector_options moba_blocks(selection_budget const& budget, index_t block_tokens = 512,
                                         list_of lists = list_of::query_head) {
  return {.page_tokens = block_tokens, .budget = budget, .last_pages = 1, .lists = lists, .score = score_of::largest};
}

/// Gives Kinetics' choice. The budget says how many sinks and last tokens there are (4 sinks in the paper); what they
/// leave of it is rounded up to blocks.
///
///     page_selector_options const choice = kinetics_blocks({.tokens = 1024, .first = 4, .last = 64});
inline page_selector_options kinetics_blocks(selection_budget const& budget, index_t block_tokens = 16) {
  return {.page_tokens = block_tokens, .budget = budget, .lists = list_of::key_value_head, .score = score_of::mean};
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
