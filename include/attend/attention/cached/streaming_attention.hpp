// SPDX-License-Identifier: BSD-3-Clause
// Attention to sinks and a window with positions in the cache, not in the text: StreamingLLM.
//
//   a token at position p attends to the sinks [0, S) and the last W tokens up to itself. What is kept is numbered
//   anew, from 0 on, and rotary positions are those numbers:
//
//     number of key j   j if nothing was dropped before it or j < S, else j - (p + 1 - S - W)
//     number of p       min(p, S + W - 1)
//
// So no distance exceeds the S + W tokens that are kept, however long the text. Numbers change with every token, but a
// logit depends on differences of them alone: within the window these are those of the text, and to a sink j they are
// min(p, S + W - 1) - j. Keys are therefore rotated once, at their positions in the text, as the cache takes them, and
// each query is rotated twice: by p for the window, and by min(p, S + W - 1) for the sinks. The two parts are merged by
// log-sum-exp; each byte of the cache is read once.
//
//   shapes as for cached_attention; the cache is a rolling_cache, whose keys came through this call
//
// Cost: that of cached_attention on the cache. Partial outputs are rounded to the element type before they are merged.
//
// Guangxuan Xiao et al.: Efficient Streaming Language Models with Attention Sinks, 2023.
#pragma once

#include "../../cache/rolling.hpp"
#include "../../policy/mask/parts.hpp"
#include "../../policy/mask/window.hpp"
#include "../../policy/score/softcap.hpp"
#include "../softmax/merge.hpp"
#include "cached_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Queries rotated by their numbers in the cache, at most `last`.
template <class Angles>
struct numbered_queries {
  using option_kind = option::position;
  static constexpr bool rotates_keys = false;

  rotary<Angles> const& settings;
  index_t last;

  void check(problem_shape const&, key_range) const {}  // the caller has checked higher positions
  index_t buffer_size() const { return settings.buffer_size(); }
  template <class A>
  rotation<A> query_rotation(attending_place const& at, A* buffer) const {
    return settings.query_rotation(attending_place{at.batch, at.token, std::min(at.position, last)}, buffer);
  }
};

template <class Option>
inline constexpr bool fits_streaming = std::same_as<std::remove_cvref_t<Option>, softcap> ||
                                       call::allows<option::scale, option::log_sum_exp, option::executor>::all<Option>;

}  // namespace detail

namespace systems {

/// Appends `key` and `value` to all sequences of `cache`, and attends from `query`, with the shapes of
/// cached_attention. None of them is rotated yet. However many tokens come at once, they are taken chunk() at a time.
/// Options: softcap, scale (1/sqrt(key dimension) unless given), log_sum_exp and executor.
///
/// Throws argument_error where shapes, strides, memory or an option do not fit, or where the rotary policy has
/// positions of its own; nothing is written then, and the cache is as it was.
///
///     rolling_cache<float> kept(shape, streaming{4, 2044}, 64);  // 4 sinks, a window, 64 tokens at a time
///     streaming_attention(kept, q, k, v, o, rotary(rotary_frequencies(128)));
template <StorageElement CachedKey, StorageElement CachedValue, TensorArgument Query, TensorArgument Key,
          TensorArgument Value, TensorArgument Output, class Angles, class... Options>
void streaming_attention(rolling_cache<CachedKey, CachedValue>& cache, Query const& query, Key const& key,
                         Value const& value, Output&& output, rotary<Angles> const& settings, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  static_assert((detail::fits_streaming<Options> && ...),
                "attend: streaming_attention takes softcap, scale, log_sum_exp and an executor");
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  index_t const tokens = q.extent(2), group_size = call::tokens_per_append(cache, tokens);
  if (settings.moved()) fail("rotary", "expected the positions of the text, got positions of its own");
  rotary_queries const to_window(settings);
  call::plan_new_tokens<T>(cache, q, k, v, o, group_size, settings, to_window, options...);
  scratch memory;
  tensor_view<A, 3> const rows = detail::rows_of_log_sum_exp<A>(memory, q, options...);

  auto& executor = call::executor_of(options...);
  index_t const sinks = cache.mask().sinks, window_tokens = cache.mask().window;
  detail::numbered_queries<Angles> const to_sinks{settings, sinks + window_tokens - 1};
  std::array const most{q.extent(0), q.extent(1), group_size, o.extent(3)};
  T* const sink_output = memory.allocate<T>(most[0] * most[1] * most[2] * most[3]);
  A* const sink_rows = memory.allocate<A>(most[0] * most[1] * most[2]);
  auto const change =
      std::tuple_cat(detail::find_options<option::scale>(options...), detail::find_options<option::score>(options...));

  for (index_t first = 0; first < tokens; first += group_size) {
    index_t const count = std::min(group_size, tokens - first);
    auto const part = [&](auto const& whole) { return detail::part(whole, 2, first, count); };
    tensor_view<A, 3> const seen(rows.data() + first * rows.stride(2), {most[0], most[1], count}, rows.strides());
    tensor_view<T, 4> const of_sinks(sink_output, {most[0], most[1], count, most[3]});
    tensor_view<A, 3> const seen_of_sinks(sink_rows, {most[0], most[1], count});
    cache.append(part(k), part(v), settings);
    std::apply(
        [&](auto const&... options_of_both) {
          softmax_attention(part(q), cache, of_sinks, to_sinks, causal{} & keys_in(0, sinks),
                            log_sum_exp(seen_of_sinks), executor, options_of_both...);
          softmax_attention(part(q), cache, part(o), to_window,
                            window{window_tokens - 1, 0} & keys_in(sinks, token_limit), log_sum_exp(seen), executor,
                            options_of_both...);
        },
        change);
    partial_attention<T> const parts[] = {{of_sinks, seen_of_sinks}, {part(o), seen}};
    merge(parts, part(o), log_sum_exp(seen), executor);
  }
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
