// SPDX-License-Identifier: BSD-3-Clause
// Decoding with chosen keys: a selector says from the queries which tokens of a cache matter, and only those are
// attended to, where they lie. This is the part that the papers on it share; what is each one's own is its selector
// (Quest, MoBA, Kinetics, Loki, LongHeads, TokenSelect, SeerAttention: the headers beside this one).
//
//   selector.select(query, cache)       lists of tokens, one for each query head, or for the heads that share keys
//   o = softmax over the list's tokens of (scale * q . k), times v
//
//   query  [sequence, query head, query, key dimension]
//   output [sequence, query head, query, value dimension]
//
// With rotary positions as an option, queries and the cache's keys are ones that are not rotated, and the chosen tokens
// stand one after the other, the last query at the last of them: no distance is longer than the list. rotary_places and
// rotary_moves say of the list's rows where else they stand, rotary_queries that keys are rotated for the text.
//
// A selector is told what was appended by update(cache). At a budget of all tokens every selector's output is that of
// decode_attention.
//
// Cost: what the selector reads, and the bytes of the chosen keys and values, once for all query heads of a list.
#pragma once

#include "../../select/selected_rows.hpp"
#include "../cached/cached_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

template <class S, class Query, class Cache>
concept HasSelect = requires(S& selector, Query const& query, Cache const& cache, serial& executor) {
  selector.select(query, cache, executor);
};
template <class S>
concept HasLists = requires(S& selector) {
  { selector.lists() } -> std::same_as<token_lists const&>;
};

/// Whether an option rotates for places in the list: rotary, but not policies that say where rows stand, or that keys
/// are rotated already.
template <class Option>
inline constexpr bool is_for_list = rotates_keys<std::remove_cvref_t<Option>> && !rotates_as_read<Option>;

}  // namespace detail

namespace extend {

/// A selector chooses tokens of a cache for queries: it has select(query, cache, executor), and lists() gives a
/// token_lists.
template <class S, class Query, class Cache>
concept Selector = detail::HasSelect<S, Query, Cache> && detail::HasLists<S>;

}  // namespace extend

namespace selection {

/// Attends from the last tokens of each sequence to those of a cache that the selector chooses; shapes stand at the
/// beginning of this file. Options are those of decode_attention; the executor also scores.
///
/// Throws argument_error, before the output is written, where shapes or an option do not fit, or where the selector was
/// not told of all tokens.
///
///     quest_selector<float> selector(shape, 32, 4096, quest_pages({.tokens = 1024}));
///     selector.update(cache);
///     selected_attention(q, cache, selector, o, threads{8});
template <TensorArgument Query, detail::StoreLike Cache, class S, TensorArgument Output, class... Options>
void selected_attention(Query const& query, Cache const& cache, S& selector, Output&& output, Options&&... options) {
  static_assert(detail::has_store_members<Cache>());
  static_assert(detail::HasSelect<S, Query, Cache>,
                "attend: a selector needs select(query, cache, executor), for these queries and this cache");
  static_assert(detail::HasLists<S>, "attend: a selector needs lists(), which gives a token_lists const&");
  arithmetic_mode const arithmetic;
  auto& executor = call::executor_of(options...);
  if constexpr ((detail::is_for_list<Options> || ...)) {
    selector.select(query, cache, executor);
    softmax_attention(query, selected_rows(cache, selector.lists(), row_positions::of_list), output, options...);
  } else {
    call::decode_options::check<Options...>();
    selector.select(query, cache, executor);
    decode_attention(query, selected_rows(cache, selector.lists()), output, options...);
  }
}

}  // namespace selection

}  // namespace attend::inline ATTEND_TARGET
