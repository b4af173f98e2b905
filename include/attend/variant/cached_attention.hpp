// Attention to a cache, by any number of queries; and of new tokens to a cache that takes them first: prefill, a chunk
// of it, or one decoding step, in one call.
//
//   softmax_attention(query, cache, output)              the cache has the queries' own keys and values already
//   cached_attention(cache, query, key, value, output)   it appends them, then each token attends to what is kept for
//   it:
//                                                        all up to its own, or the sinks and the window
//
//   query  [sequence, query head, token, key dimension]
//   key    [sequence, key-value head, token, key dimension]
//   value  [sequence, key-value head, token, value dimension]
//   output [sequence, query head, token, value dimension]
//
// However a sequence is cut into calls, each token sees the same rows. Keys and values are read in the cache; those
// that are stored in fewer bits are seen as they were rounded, also by the queries that come with them.
//
// Softmax attention, Vaswani et al., 2017. Chunked prefill: Amey Agrawal et al.: SARATHI, 2023.
#pragma once

#include "../policy/mask/causal.hpp"
#include "../policy/mask/streaming.hpp"
#include "decode_attention.hpp"

namespace attend {

namespace detail {

/// Options that say the same of any part of the queries.
template <class... Options>
inline constexpr bool suits_any_part = (is_option<Options, option::scale, option::normalizer, option::executor> && ...);

/// Tokens [first, first + count) of [sequence, head, token, dimension].
template <class T>
tensor_view<T, 4> tokens_of(tensor_view<T, 4> const& all, index_t first, index_t count) {
  return {all.data() + first * all.stride(2), {all.extent(0), all.extent(1), count, all.extent(3)}, all.strides()};
}

/// What must fit before new tokens are taken apart; how many they are.
template <Element T, class Cache>
index_t check_new_tokens(Cache const& cache, tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key,
                         tensor_view<T const, 4> const& value, tensor_view<T, 4> const& output) {
  index_t const tokens = cache_problem<T>(query, cache, output).shape.queries;
  check_view("key", key);
  check_extent("key", "tokens", key.extent(2), tokens, "query");
  check_view("value", value);
  check_extent("value", "tokens", value.extent(2), tokens, "query");
  check_apart("output", output, "query", query);
  check_apart("output", output, "key", key);
  check_apart("output", output, "value", value);
  return tokens;
}

template <Mask M, class Option>
decltype(auto) restrict_mask(M const& mask, Option& option) {
  if constexpr (Mask<std::remove_const_t<Option>>)
    return mask & option;
  else
    return (option);
}

}  // namespace detail

/// Attention of `query` to what a cache holds. The queries of a sequence are those of the tokens that were appended
/// last. Elements of the cache may be of another type than those of query and output; quantised ones are widened once
/// for all queries that share a block. Options as for softmax_attention on tensors, but for lengths of sequences, which
/// a cache has itself.
///
/// Throws argument_error, before anything is written, where shapes, strides or an option do not fit.
template <TensorLike Query, KeyValueSource Cache, TensorLike Output, class... Options>
  requires(!TensorLike<Cache>)
void softmax_attention(Query const& query, Cache const& cache, Output&& output, Options&&... options) {
  using T = element_of_t<Output>;
  static_assert(Element<T>, "attend: elements are float, double, Eigen::half or Eigen::bfloat16");
  static_assert(std::same_as<element_of_t<Query const>, T>, "attend: query and output must have one element type");
  detail::check_options<Options...>();
  detail::run_on_cache<T>(
      raise<4>(view_of(query)), cache, raise<4>(view_of(output)),
      [&cache](auto const& problem, auto const& steering, auto& executor) {
        detail::run_suitably<Options...>(problem, cache, steering, executor);
      },
      options...);
}

/// Appends `key` and `value` to all sequences of `cache`, and attends. Options as for softmax_attention; a mask further
/// restricts what the tokens see. A cache with a window takes at most chunk() tokens at a time: more of them are cut
/// into chunks, if no option has something for each query.
///
/// Throws argument_error where shapes, strides, memory or an option do not fit, or where the cache has no room; nothing
/// is written then, and the cache is as it was.
template <class Cache, TensorLike Query, TensorLike Key, TensorLike Value, TensorLike Output, class... Options>
  requires KeyValueSource<std::remove_const_t<Cache>>
void cached_attention(Cache& cache, Query const& query, Key const& key, Value const& value, Output&& output,
                      Options&&... options) {
  using T = element_of_t<Output>;
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  index_t const tokens = detail::check_new_tokens<T>(cache, q, k, v, o);
  auto const take = [&](auto const& mask, index_t first, index_t count) {
    cache.append(detail::tokens_of(k, first, count), detail::tokens_of(v, first, count));
    try {
      auto const queries = detail::tokens_of(q, first, count);
      auto const rows = detail::tokens_of(o, first, count);
      if constexpr (detail::count_of_kind<option::mask, Options...> > 0)
        softmax_attention(queries, cache, rows, detail::restrict_mask(mask, options)...);
      else
        softmax_attention(queries, cache, rows, mask, options...);
    } catch (...) {
      for (index_t s = 0; s < cache.sequences(); ++s) cache.truncate(s, cache.size(s) - count);
      throw;
    }
  };
  if constexpr (requires { cache.chunk(); }) {
    if (tokens > cache.chunk() && !detail::suits_any_part<Options...>)
      fail("query", "expected at most ", cache.chunk(), " tokens at a time (the cache's chunk), got ", tokens);
    for (index_t first = 0; first < tokens; first += cache.chunk())
      take(cache.mask(), first, std::min(cache.chunk(), tokens - first));
  } else {
    take(causal{}, 0, tokens);
  }
}

}  // namespace attend
