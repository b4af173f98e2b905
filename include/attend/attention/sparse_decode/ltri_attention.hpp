// SPDX-License-Identifier: BSD-3-Clause
// Ltri-LLM: a stream of tokens, each of which sees the first tokens, a local window, and of all between them the spans
// that the heads vote for. The weights that tokens give to each other divide the stream into spans as it comes.
//
//   for each chunk of tokens: append keys and values; choose spans by the mean query of the chunk (span_selector.hpp);
//   o_i = softmax over {first tokens, chosen spans, local tokens up to i} of (s q_i . k_j), times v_j;
//   observe the weights of the chunk's tokens for those of their blocks, and divide blocks that are full
//
//   query  [sequence, query head, token, key dimension]
//   key    [sequence, key-value head, token, key dimension]
//   value  [sequence, key-value head, token, value dimension]
//   output [sequence, query head, token, value dimension]
//
// Queries and keys are rotated by the caller. A token is not lost: it stays in the store, which may be of any kind that
// keeps all tokens, and can be chosen again whenever its span is. With a budget of all tokens this is causal attention.
//
// Cost of a token: its share of the choice, which reads the vectors of the spans once for a chunk; the bytes of the
// list, or its arithmetic for chunks; its logits with the tokens of its block. It does not grow with the sequence but
// for the vectors. Scratch: the log-sum-exp of a chunk.
//
// Hongyin Tang et al.: Ltri-LLM: Streaming Long Context Inference for LLMs with Training-Free Dynamic Triangular
// Attention Pattern, 2024. The paper's local map is the attention of a window; here it is the weights of this call,
// which are made for the output anyway, within a block.
#pragma once

#include "../../select/selected_rows.hpp"
#include "../cached/cached_attention.hpp"
#include "span_selector.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Appends tokens to all sequences of a cache, and attends from them to what the selector chooses; shapes stand at the
/// beginning of this file. A prompt is cut into chunks of at most `chunk` tokens, which choose together; one token is a
/// decoding step. Options: scale (1/sqrt(key dimension) unless given) and executor.
///
/// Throws argument_error, before anything is written or appended, where shapes, strides, memory or an option do not
/// fit, where the cache has no room, or has other tokens than the selector has observed.
///
///     span_selector<float> selector(shape, 32, 8192, {.budget = {.tokens = 2048, .first = 4, .last = 512}});
///     ltri_attention(cache, selector, q, k, v, o, 256);
template <class Cache, Element S, TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output,
          class... Options>
  requires detail::StoreLike<std::remove_cvref_t<Cache>>
void ltri_attention(Cache&& cache, span_selector<S>& selector, Query const& query, Key const& key, Value const& value,
                    Output&& output, index_t chunk, Options&&... options) {
  static_assert(detail::has_store_members<std::remove_cvref_t<Cache>>());
  static_assert(call::is_appendable<std::remove_reference_t<Cache>>());
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  if (chunk < 1) fail("chunk", "expected at least 1 token, got ", chunk);
  // The plan of causal attention to all tokens has checked whatever attention to some of them needs.
  call::plan_cached<call::allows<option::scale, option::executor>>(cache, q, k, v, o, options...);
  detail::check_selecting_query(q, selector.shape(), selector.query_heads());
  selector.check_next(cache, q.extent(2), q.extent(2));
  scratch memory;
  index_t const most = std::min(chunk, q.extent(2));
  A* const lse = memory.allocate<A>(q.extent(0) * q.extent(1) * most + 1);
  for (index_t first = 0; first < q.extent(2); first += chunk) {
    index_t const count = std::min(chunk, q.extent(2) - first);
    auto const part = [&](auto const& whole) { return detail::part(whole, 2, first, count); };
    tensor_view<A, 3> const rows(lse, {q.extent(0), q.extent(1), count});
    cache.append(part(k), part(v));
    selector.select(part(q), cache, call::executor_of(options...));
    selected_rows const chosen(cache, selector.lists());
    // One token sees all that is in its list; without a mask rows are read in full blocks.
    if (count == 1)
      decode_attention(part(q), chosen, part(o), log_sum_exp(rows), options...);
    else
      softmax_attention(part(q), chosen, part(o), causal{}, log_sum_exp(rows), options...);
    selector.observe(part(q), rows, cache, options...);
  }
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
