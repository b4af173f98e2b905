// SPDX-License-Identifier: BSD-3-Clause
// TokenSelect: one list of tokens for all heads, by the soft votes of each, kept while queries are alike.
//
//   o = attention to the first tokens, the tokens of most votes, and the last ones (select/vote_selector.hpp)
//
// In the paper keys are cached as they are, and queries and chosen keys are rotated for positions one after the other:
// that is the option `rotary`. Votes are then those of queries that are not rotated; where the cache holds rotated keys
// and no option is given, of rotated ones. Queries of several tokens vote by their mean.
//
// Bytes of a step: the chosen keys and values where the selection serves again; else all keys besides.
//
// Wei Wu et al.: TokenSelect, 2024.
#pragma once

#include "../../select/vote_selector.hpp"
#include "selected_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// selected_attention with the chosen tokens.
template <TensorArgument Query, KeyValueSource Cache, class A, TensorArgument Output, class... Options>
void token_select_attention(Query const& query, Cache const& cache, vote_selector<A>& selector, Output&& output,
                            Options&&... options) {
  selected_attention(query, cache, selector, output, options...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
