// SPDX-License-Identifier: BSD-3-Clause
// Attention to a cache, by any number of queries; and of new tokens to a cache that takes them first: prefill, a chunk
// of it, or one decoding step, in one call.
//
//   softmax_attention(query, cache, output)              the cache has the queries' own keys and values already
//   cached_attention(cache, query, key, value, output)   it appends them, then each token attends to what is kept
//                                                        for it: all up to its own, or the sinks and the window
//
//   query  [sequence, query head, token, key dimension]
//   key    [sequence, key-value head, token, key dimension]
//   value  [sequence, key-value head, token, value dimension]
//   output [sequence, query head, token, value dimension]
//
// However a sequence is cut into calls, each token sees the same rows. Keys and values are read in the cache; those
// that are stored in fewer bits are seen as they were rounded, also by the queries that come with them.
//
// A cache with a window takes some tokens at a time, and a prompt of more is cut. Options speak of the whole call all
// the same: a query's index and its row of a tensor are those of the call, and a tensor over keys has as many of them
// as the longest sequence will then have had.
//
// With a rotary policy cached_attention rotates keys as it appends them, each once, and queries as it packs them, at
// the positions of the text or at those that rotary.at(queries, keys) gives to the new tokens. softmax_attention to a
// cache takes it to mean that its keys are not rotated: they are, whenever they are read; rotary_queries says that they
// have been.
//
// Softmax attention, Vaswani et al., 2017. Chunked prefill: Amey Agrawal et al.: SARATHI, 2023.
#pragma once

#include "../../call/append_plan.hpp"
#include "../../policy/mask/streaming.hpp"
#include "../softmax/softmax_attention.hpp"
#include "decode_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Where the log-sum-exp of each query goes: to the option's tensor, or to scratch. It is checked where it is an
/// option of a call.
template <class A, class T, class... Options>
tensor_view<A, 3> rows_of_log_sum_exp(scratch& memory, tensor_view<T const, 4> const& query,
                                      Options const&... options) {
  std::array const extents{query.extent(0), query.extent(1), query.extent(2)};
  if constexpr (has_kind<option::log_sum_exp, Options...>) {
    absent none;
    return find_option<option::log_sum_exp>(none, options...).rows;
  } else {
    return {memory.allocate<A>(extents[0] * extents[1] * extents[2]), extents};
  }
}

}  // namespace detail

/// Attends from `query` to what a cache holds: query [sequence, query head, token, key dimension], output [sequence,
/// query head, token, value dimension]. The queries of a sequence are those of the tokens that were appended last. The
/// elements of the cache may have another type than those of query and output; quantized ones are widened once for all
/// queries that share a block. Options are those of softmax_attention on tensors, but for lengths of sequences, which a
/// cache has itself.
///
/// Throws argument_error, before anything is written, where shapes, strides or an option do not fit.
///
///     softmax_attention(q, cache, o, causal{});
template <extend::TensorArgument Query, detail::StoreLike Cache, extend::TensorArgument Output, class... Options>
  requires(!extend::TensorArgument<Cache>)
void softmax_attention(Query const& query, Cache const& cache, Output&& output, Options&&... options) {
  static_assert(detail::has_store_members<Cache>());
  extend::arithmetic_mode const arithmetic;
  using T = call::element_of_call<Output, Query>;
  extend::scratch memory;
  auto problem = call::cache_problem<T>(extend::raise<4>(extend::view_of(query)), cache,
                                        extend::raise<4>(extend::view_of(output)));
  auto plan = call::plan_on_cache<call::softmax_options_and<option::key_mass>>(
      problem, cache, options::padded_keys(call::lengths_in(cache, 0, memory)), options...);
  if constexpr (detail::has_kind<option::key_mass, Options...>)
    call::run_with_key_sums(plan, cache, call::wanted_mass(problem, options...));
  else
    call::run(plan, cache);
}

/// Appends `key` and `value` to all sequences of `cache`, and attends from `query`; shapes stand at the beginning of
/// this file. For some sequences, of any lengths, the cache is sequences_of(cache, list). Options are those of
/// softmax_attention; a mask further restricts what the tokens see, and a rotary policy rotates keys and queries. A
/// cache with a window takes at most chunk() tokens at a time: more of them are cut into chunks, but not beside
/// rotary.at(queries, keys).
///
/// Throws argument_error where shapes, strides, memory or an option do not fit, or where the cache has no room; nothing
/// is written then, and the cache is as it was. What the caller's own mask, score or executor throws comes later: the
/// tokens that were attended to then stay appended, until truncate() takes them back, and outputs are written in part.
///
///     cached_attention(cache, q, k, v, o, rotary(rotary_frequencies(128)));  // a prompt, or the next token
///     cached_attention(sequences_of(cache, ids), q, k, v, o);                // of some sequences of the cache
template <class Cache, extend::TensorArgument Query, extend::TensorArgument Key, extend::TensorArgument Value,
          extend::TensorArgument Output, class... Options>
  requires detail::StoreLike<std::remove_cvref_t<Cache>>
void cached_attention(Cache&& cache, Query const& query, Key const& key, Value const& value, Output&& output,
                      Options&&... options) {
  static_assert(detail::has_store_members<std::remove_cvref_t<Cache>>());
  static_assert(call::is_appendable<std::remove_reference_t<Cache>>());
  extend::arithmetic_mode const arithmetic;
  using T = extend::element_of_t<Output>;
  tensor_view<T const, 4> const q = extend::raise<4>(extend::view_of(query)),
                                k = extend::raise<4>(extend::view_of(key)),
                                v = extend::raise<4>(extend::view_of(value));
  tensor_view<T, 4> const o = extend::raise<4>(extend::view_of(output));
  auto plan = call::plan_cached(cache, q, k, v, o, options...);
  detail::absent const none;
  call::attend_to_new_tokens(cache, call::key_rotation(none, options...), plan);
}

}  // namespace attend::inline ATTEND_TARGET
