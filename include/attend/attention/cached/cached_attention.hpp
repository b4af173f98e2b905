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

#include "../../policy/mask/causal.hpp"
#include "../../policy/mask/streaming.hpp"
#include "decode_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Whether an option cannot be cut beside the tokens: positions of the caller's are for those that are appended at
/// once.
template <class Option>
bool is_for_whole_calls(Option const& option) {
  if constexpr (is_option<Option, option::position>) return option.moved();
  return false;
}

/// Tokens [first, first + count) of [sequence, head, token, dimension].
template <class T>
tensor_view<T, 4> tokens_of(tensor_view<T, 4> const& all, index_t first, index_t count) {
  return {all.data() + first * all.stride(2), {all.extent(0), all.extent(1), count, all.extent(3)}, all.strides()};
}

/// How many of some tokens a cache takes at a time.
template <class Cache>
index_t tokens_together(Cache const& cache, index_t tokens) {
  if constexpr (requires { cache.chunk(); }) return std::min<index_t>(cache.chunk(), tokens);
  return tokens;
}

/// Checks all that a call can find wrong which appends tokens, `together` at a time, keys rotated by `how`, and attends
/// to them with these options: before it changes the cache, as no store can go back to what it was.
template <Element T, class Cache, class Rotary, class... Options>
void check_new_tokens(Cache const& cache, tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key,
                      tensor_view<T const, 4> const& value, tensor_view<T, 4> const& output, index_t group_size,
                      Rotary const& settings, Options&... options) {
  index_t const tokens = query.extent(2);
  auto problem = cache_problem<T>(query, cache, output, tokens);
  check_view("key", key);
  check_extent("key", "tokens", key.extent(2), tokens, "query");
  check_view("value", value);
  check_extent("value", "tokens", value.extent(2), tokens, "query");
  cache.check_append(key, value, group_size, settings);
  // What is written must be apart from them too: they are read as chunk follows chunk.
  problem.key = key;
  problem.value = value;
  run_on_cache(problem, cache, tokens, [](auto const&, auto const&, auto&) {}, options...);
}

/// What an option says of queries whose keys are in the cache: masks are restricted to what is kept, and rotations are
/// for queries alone.
template <Mask M, class Option>
decltype(auto) in_cache(M const& kept, Option& option) {
  if constexpr (Mask<std::remove_const_t<Option>>)
    return kept & option;
  else if constexpr (rotates_keys<std::remove_const_t<Option>>)
    return rotary_queries(option);
  else
    return (option);
}

/// Attention of the queries `asked`, whose tokens were appended last, as a part of a call.
template <Element T, class Cache, class... Options>
void attend_in_cache(Cache const& cache, tensor_view<T const, 4> const& query, tensor_view<T, 4> const& output,
                     key_range asked, Options&... options) {
  check_options<std::remove_reference_t<Options>...>();
  auto problem = cache_problem<T>(query, cache, output, query.extent(2) - asked.last);
  run_on_sequences(
      problem, cache, 0, [&](index_list const& lengths) { return query_part{lengths, asked.first, asked.last}; },
      [&cache](auto const& p, auto const& policies, auto& executor) {
        run_suitably<Options...>(p, cache, policies, executor);
      },
      options...);
}

/// The policy among the options that rotates keys, or `none`.
template <class... Options>
auto const& key_rotation(absent const& none, Options const&... options) {
  if constexpr ((rotates_keys<std::remove_cvref_t<Options>> || ...))
    return find_option<option::position>(none, options...);
  else
    return none;
}

/// Appends to all sequences.
template <class Cache, class Key, class Value, class Rotary>
void append_rotated(Cache& cache, Key const& key, Value const& value, Rotary const& settings) {
  if constexpr (std::same_as<Rotary, absent>)
    cache.append(key, value);
  else
    cache.append(key, value, settings);
}

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

/// Attention of `query` to what a cache holds. The queries of a sequence are those of the tokens that were appended
/// last. Elements of the cache may be of another type than those of query and output; quantized ones are widened once
/// for all queries that share a block. Options as for softmax_attention on tensors, but for lengths of sequences, which
/// a cache has itself.
///
/// Throws argument_error, before anything is written, where shapes, strides or an option do not fit.
template <TensorArgument Query, KeyValueSource Cache, TensorArgument Output, class... Options>
  requires(!TensorArgument<Cache>)
void softmax_attention(Query const& query, Cache const& cache, Output&& output, Options&&... options) {
  using T = element_of_t<Output>;
  static_assert(Element<T>, "attend: elements are float, double, Eigen::half or Eigen::bfloat16");
  static_assert(std::same_as<element_of_t<Query const>, T>, "attend: query and output must have one element type");
  detail::check_options<Options...>();
  auto problem = detail::cache_problem<T>(extend::raise<4>(view_of(query)), cache, extend::raise<4>(view_of(output)));
  detail::run_on_cache(
      problem, cache, 0,
      [&cache](auto const& p, auto const& policies, auto& executor) {
        detail::run_suitably<Options...>(p, cache, policies, executor);
      },
      options...);
}

/// Appends `key` and `value` to all sequences of `cache`, and attends. Options as for softmax_attention; a mask further
/// restricts what the tokens see; a rotary policy rotates keys and queries. A cache with a window takes at most chunk()
/// tokens at a time: more of them are cut into chunks, but not beside rotary.at(queries, keys).
///
/// Throws argument_error where shapes, strides, memory or an option do not fit, or where the cache has no room; nothing
/// is written then, and the cache is as it was. What the caller's own mask, score or executor throws comes later: the
/// tokens that were attended to then stay appended, until truncate() takes them back, and outputs are written in part.
template <class Cache, TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output,
          class... Options>
  requires KeyValueSource<std::remove_const_t<Cache>>
void cached_attention(Cache& cache, Query const& query, Key const& key, Value const& value, Output&& output,
                      Options&&... options) {
  extend::arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  tensor_view<T const, 4> const q = extend::raise<4>(view_of(query)), k = extend::raise<4>(view_of(key)),
                                v = extend::raise<4>(view_of(value));
  tensor_view<T, 4> const o = extend::raise<4>(view_of(output));
  index_t const tokens = q.extent(2), group_size = detail::tokens_together(cache, tokens);
  if (group_size < tokens && (detail::is_for_whole_calls(options) || ...))
    extend::fail("query", "expected at most ", group_size,
                 " tokens at a time (the cache's chunk) beside rotary.at(queries, keys), got ", tokens);
  auto const take = [&](auto const& kept, auto const& settings) {
    auto const with_options = [&](auto const& call) {
      if constexpr (detail::has_kind<option::mask, Options...>)
        call(detail::in_cache(kept, options)...);
      else
        call(kept, detail::in_cache(kept, options)...);
    };
    with_options([&](auto&&... all) { detail::check_new_tokens<T>(cache, q, k, v, o, group_size, settings, all...); });
    for (index_t first = 0; first < tokens; first += group_size) {
      index_t const last = std::min(first + group_size, tokens);
      auto const part = [&](auto const& whole) { return detail::tokens_of(whole, first, last - first); };
      detail::append_rotated(cache, part(k), part(v), settings);
      with_options(
          [&](auto&&... all) { detail::attend_in_cache<T>(cache, q, o, extend::key_range{first, last}, all...); });
    }
  };
  detail::absent const none;
  auto const& settings = detail::key_rotation(none, options...);
  if constexpr (requires { cache.chunk(); })
    take(cache.mask(), settings);
  else
    take(causal{}, settings);
}

}  // namespace attend::inline ATTEND_TARGET
