// SPDX-License-Identifier: BSD-3-Clause
// Decoding: the last tokens of each sequence attend to all of its keys and values so far, which are read once.
//
//   query  [sequence, query head, query, key dimension]      1 to 16 queries, say
//   cache  keys and values of each sequence, each with a length of its own (cache/)
//   output [sequence, query head, query, value dimension]
//
// The queries are those of the tokens that were appended last: query i of m, in a sequence of n tokens, stands at
// n - m + i. With several queries, say causal{}: a token must not see the ones after it. What a cache has dropped is
// seen by nobody.
//
// Cost: the bytes of keys and values that are seen, read once for all the query heads that share them. More queries
// give the same result, but are work for softmax_attention, whose time goes with the arithmetic.
//
// Noam Shazeer: Fast Transformer Decoding: One Write-Head is All You Need, 2019 (why reading is what it costs). Tri
// Dao, Daniel Haziza, Francisco Massa, Grigory Sizov: Flash-Decoding, 2023 (keys split).
#pragma once

#include "../../cache/contiguous.hpp"
#include "../../call/plan.hpp"

namespace attend::inline ATTEND_TARGET {

/// Attends from the last tokens of each sequence to all that its cache holds; shapes stand at the beginning of this
/// file. Options, in any order: one mask, any number of scores, and scale (1/sqrt(key dimension) unless given), a
/// normalizer, rotary_queries, slots, gains, log_sum_exp, weights, count_tiles and executor. Masks, scores and gains
/// that hold a tensor over keys (bias, boolean_mask) have as many keys as the longest sequence. Query and output are
/// float, half or bfloat16, or double for a cache of double.
///
/// Throws argument_error, before anything is written, where shapes or an option do not fit.
///
///     decode_attention(q, cache, o, threads{8});
template <extend::TensorArgument Query, detail::StoreLike Source, extend::TensorArgument Output, class... Options>
  requires(!extend::TensorArgument<Source>)
void decode_attention(Query const& query, Source const& cache, Output&& output, Options&&... options) {
  static_assert(detail::has_store_members<Source>());
  extend::arithmetic_mode const arithmetic;
  using T = call::element_of_call<Output, Query>;
  extend::scratch memory;
  auto problem = call::cache_problem<T>(extend::raise<4>(extend::view_of(query)), cache,
                                        extend::raise<4>(extend::view_of(output)));
  auto plan = call::plan_on_cache<call::decode_options>(
      problem, cache, options::padded_keys(call::lengths_in(cache, 0, memory)), options...);
  engine::run_split(problem, cache, plan.policies(), plan.executor);
}

/// Does the same over tensors [batch, head, token, dimension], as softmax_attention takes them. The options `padded`,
/// `padded_keys` and `ragged` say how long sequences are.
///
///     decode_attention(q, k, v, o, padded_keys(lengths));
template <extend::TensorArgument Query, extend::TensorArgument Key, extend::TensorArgument Value,
          extend::TensorArgument Output, class... Options>
void decode_attention(Query const& query, Key const& key, Value const& value, Output&& output, Options&&... options) {
  extend::arithmetic_mode const arithmetic;
  auto problem = call::problem_of(query, key, value, output);
  auto plan = call::plan<call::decode_options>(problem, options...);
  engine::run_split(problem, engine::problem_rows(problem), plan.policies(), plan.executor);
}

}  // namespace attend::inline ATTEND_TARGET
