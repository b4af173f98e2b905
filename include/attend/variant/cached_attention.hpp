// Attention of new tokens to a cache that takes them first: prefill, a chunk of it, or one decoding step, in one call.
//
//   the cache appends k_i, v_i;   o_i = softmax attention of q_i to the tokens up to its own that the cache keeps for it
//
//   query  [sequence, query head, token, key dimension]
//   key    [sequence, key-value head, token, key dimension]
//   value  [sequence, key-value head, token, value dimension]
//   output [sequence, query head, token, value dimension]
//
// However a sequence is cut into calls, each token sees the same rows: all up to its own, or the sinks and the window of
// a cache that drops the others. Keys and values are read in the cache; those that are stored in fewer bits are seen as
// they were rounded, also by the queries that come with them.
//
// Softmax attention, Vaswani et al., 2017. Chunked prefill: Amey Agrawal et al.: SARATHI, 2023.
#pragma once

#include "../policy/mask/causal.hpp"
#include "../policy/mask/streaming.hpp"
#include "softmax_attention.hpp"

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

template <Mask M, class Option>
decltype(auto) restrict_mask(M const& mask, Option& option) {
  if constexpr (Mask<std::remove_const_t<Option>>)
    return mask & option;
  else
    return (option);
}

template <class T, class Cache, class M, class... Options>
void softmax_attention_under(M const& mask, tensor_view<T const, 4> const& query, Cache const& cache,
                  tensor_view<T, 4> const& output, Options&... options) {
  if constexpr (count_of_kind<option::mask, Options...> > 0)
    softmax_attention(query, cache, output, restrict_mask(mask, options)...);
  else
    softmax_attention(query, cache, output, mask, options...);
}

}  // namespace detail

/// Appends `key` and `value` to all sequences of `cache`, and attends. Options as for softmax_attention; a mask further
/// restricts what the tokens see. A cache with a window takes at most chunk() tokens at a time: more of them are cut into
/// chunks, if no option has something for each query.
///
/// Throws argument_error where shapes, strides, memory or an option do not fit, or where the cache has no room; nothing is
/// written then, and the cache is as it was.
template <class Cache, TensorLike Query, TensorLike Key, TensorLike Value, TensorLike Output, class... Options>
  requires KeyValueSource<std::remove_const_t<Cache>>
void cached_attention(Cache& cache, Query const& query, Key const& key, Value const& value, Output&& output,
                      Options&&... options) {
  using T = element_of_t<Output>;
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  problem_shape shape = detail::check_cached_inputs<T>(q, cache);
  shape.value_dimension = cache.value_dimension();
  detail::check_output(o, shape);
  detail::check_extent("key", "tokens", k.extent(2), shape.queries, "query");
  auto const take = [&](auto const& mask, index_t first, index_t count) {
    cache.append(detail::tokens_of(k, first, count), detail::tokens_of(v, first, count));
    try {
      detail::softmax_attention_under<T>(mask, detail::tokens_of(q, first, count), cache,
                                         detail::tokens_of(o, first, count), options...);
    } catch (...) {
      for (index_t s = 0; s < cache.sequences(); ++s) cache.truncate(s, cache.size(s) - count);
      throw;
    }
  };
  if constexpr (requires { cache.chunk(); }) {
    if (shape.queries > cache.chunk() && !detail::suits_any_part<Options...>)
      fail("query", "expected at most ", cache.chunk(), " tokens at a time (the cache's chunk), got ", shape.queries);
    for (index_t first = 0; first < shape.queries; first += cache.chunk())
      take(cache.mask(), first, std::min(cache.chunk(), shape.queries - first));
  } else {
    take(causal{}, 0, shape.queries);
  }
}

}  // namespace attend
