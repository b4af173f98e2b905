// SPDX-License-Identifier: BSD-3-Clause
// RazorAttention: heads that look far back keep all tokens; the others keep sinks, a window, and one compensation token
// that stands for the N tokens between them.
//
//   o_i = (N exp(s q_i . k^) v^ + sum_j exp(s q_i . k_j) v_j) / (N exp(s q_i . k^) + sum_j exp(s q_i . k_j))
//
// with j over the tokens that are kept for query i, and k^, v^ the means of those that are not (cache/compensated.hpp).
// So N enters as ln N on the logit of the compensation token, and the two parts are merged by log-sum-exp.
//
//   razor_attention   appends tokens, which attend to what is kept for them: a decoding step, or a chunk
//   razor_prefill     a whole prompt attends to all of itself, and is dropped afterwards, as in the paper
//
// With a rotary policy keys are rotated as they are appended, and k^ is the mean of rotated keys. With rotary_places
// keys lie unrotated, and so does k^, which stands just before the query's window, at the query's place less W.
//
//   shapes as for cached_attention; the cache is a head_policy_cache whose streaming heads are in a compensated_cache,
//   or a compensated_cache alone
//
// Cost: that of the kept tokens, and 2 * (key dimension + value dimension) operations for each query of a streaming
// head; of a prefill that of causal attention. Which heads look far back is found out beforehand (retrieval_heads.hpp).
//
// Hanlin Tang et al.: RazorAttention: Efficient KV Cache Compression Through Retrieval Heads, 2024.
#pragma once

#include "../../cache/compensated.hpp"
#include "../../cache/head_policy.hpp"
#include "../../core/head_loop.hpp"
#include "../../policy/score/scale.hpp"
#include "../../simd/dot.hpp"
#include "cached_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Adds the compensation tokens to what some queries, those that were appended last, saw otherwise. `position` is a
/// policy of positions or absent.
template <Element T, class Cache, class Position, class E>
void add_compensation(Cache const& cache, tensor_view<T const, 4> const& query, accumulation_t<T> scale,
                      Position const& position, tensor_view<T, 4> const& output,
                      tensor_view<accumulation_t<T>, 3> const& log_sum_exp, E& executor) {
  using A = accumulation_t<T>;
  constexpr bool rotates = !std::same_as<Position, absent>, places_key = places_rows<Position>;
  index_t const heads = cache.key_value_heads(), queries = query.extent(2), dimension = query.extent(3);
  index_t const group = heads > 0 ? query.extent(1) / heads : 0, value_dimension = output.extent(3);
  loop_cost const of_head = loop_cost::of(4 * group * queries * (dimension + value_dimension));
  for_heads(executor, cache.sequences(), heads, of_head, [&](index_t sequence, index_t key_head) {
    auto const [store, number] = cache.compensated(key_head);
    if (!store) return;
    scratch memory;
    typename std::remove_cvref_t<decltype(*store)>::token compensation(*store, sequence, number, memory);
    T* const value = memory.allocate<T>(value_dimension);
    A* const turned_query = memory.allocate<A>(rotates ? dimension : 0);
    A* const turned_key = memory.allocate<A>(places_key ? dimension : 0);
    [[maybe_unused]] A* numbers = nullptr;
    if constexpr (rotates) numbers = memory.allocate<A>(position.buffer_size());
    for (index_t i = 0; i < queries; ++i) {
      index_t const size = cache.size(sequence);
      compensation.move_to(size - queries + i);
      if (compensation.count() == 0) continue;
      attending_place at{
          sequence, i, size - queries + i, sequence, key_head, i, queries, size, cache.stored(sequence, key_head)};
      A const* key = compensation.key();
      if constexpr (places_key) {
        index_t const place = position.rule().query(at) - store->mask().window;
        position.settings()
            .rotation_at(token_place::on_all_axes(sequence, place), numbers)
            .apply(key, turned_key, dimension);
        key = turned_key;
      }
      A const raise_by = std::log(static_cast<A>(compensation.count()));
      convert_row(compensation.value(), value_dimension, value);
      for (index_t head = key_head * group; head < (key_head + 1) * group; ++head) {
        A& seen = log_sum_exp(sequence, head, i);
        T* const to = &output(sequence, head, i, 0);
        A product;
        if constexpr (rotates) {
          at.query_head = head;
          position.query_rotation(at, numbers).apply(&query(sequence, head, i, 0), turned_query, dimension);
          product = simd::dot(turned_query, key, dimension);
        } else {
          product = simd::dot(&query(sequence, head, i, 0), key, dimension);
        }
        A factor[2] = {seen, scale * product + raise_by};
        seen = engine::merge_factors(factor, 2);
        engine::merge_rows(factor, 2, [&](index_t part) { return part == 0 ? to : value; }, value_dimension, to);
      }
    }
  });
}

/// An option as it applies to a whole prompt: rotary_places are places of what is kept, and the prompt has those of the
/// text.
template <class Option>
auto& in_text(Option& option) {
  if constexpr (places_rows<Option>)
    return option.settings();
  else
    return option;
}

template <class Option>
inline constexpr bool turns_rows_further = requires { requires Option::turns_further; };

/// Checks the policy of positions, if there is one.
template <class... Options>
void check_razor_positions(Options const&... options) {
  static_assert((... && (!has_kind<option::position, Options> || rotates_keys<Options>)) &&
                    (... && (!places_rows<Options> || !turns_rows_further<Options>)),
                "attend: of positions, razor_attention takes rotary and rotary_places: a mean of rotated keys has no "
                "position");
  [[maybe_unused]] auto const check = [](auto const& option) {
    if constexpr (has_kind<option::position, decltype(option)>)
      if (option.moved()) fail("rotary", "expected the positions of the text, got positions of its own");
  };
  (check(options), ...);
}

}  // namespace detail

namespace systems {

/// Appends `key` and `value` to all sequences of `cache`, and attends from `query`, with the shapes of
/// cached_attention. Options: scale (1/sqrt(key dimension) unless given), rotary or rotary_places, log_sum_exp and
/// executor.
///
/// Throws argument_error where shapes, strides, memory or an option do not fit, or where the cache has no room; nothing
/// is written then, and the cache is as it was.
///
///     compensated_cache<float> kept(shape, {4, 4000}, 64);  // sinks and window, tokens at a time
///     razor_attention(kept, q, k, v, o);
template <class Cache, TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output,
          class... Options>
  requires KeyValueSource<std::remove_const_t<Cache>>
void razor_attention(Cache& cache, Query const& query, Key const& key, Value const& value, Output&& output,
                     Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  call::allows<option::scale, option::position, option::log_sum_exp, option::executor>::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  index_t const tokens = q.extent(2), group_size = call::tokens_per_append(cache, tokens);

  detail::absent const none;
  detail::check_razor_positions(options...);
  auto const& position = detail::find_option<option::position>(none, options...);
  auto& executor = call::executor_of(options...);
  A const factor = detail::scale_or<A>(detail::usual_scale(q.extent(3)), options...);

  call::plan_new_tokens<T>(cache, q, k, v, o, group_size, call::key_rotation(none, options...),
                           call::in_cache(call::kept_tokens(cache), options)...);
  scratch memory;
  tensor_view<A, 3> const all = detail::rows_of_log_sum_exp<A>(memory, q, options...);
  for (index_t first = 0; first < tokens; first += group_size) {
    index_t const count = std::min(group_size, tokens - first);
    auto const part = [&](auto const& whole) { return detail::part(whole, 2, first, count); };
    tensor_view<A, 3> const seen(all.data() + first * all.stride(2), {q.extent(0), q.extent(1), count}, all.strides());
    auto const attend = [&](auto const&... of_position) {
      cached_attention(cache, part(q), part(k), part(v), part(o), scale(factor), log_sum_exp(seen), executor,
                       of_position...);
    };
    if constexpr (detail::has_kind<option::position, Options...>)
      attend(position);
    else
      attend();
    detail::add_compensation<T>(cache, part(q), factor, position, part(o), seen, executor);
  }
}

/// Attends from the tokens of a whole prompt to all of them, causally, and appends it to a cache without tokens, which
/// drops what it does not keep. Shapes and options are those of razor_attention; the prompt has the positions of the
/// text.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or where
/// the cache has tokens or no room.
///
///     compensated_cache<float> kept(shape, {4, 4000}, 64);
///     razor_prefill(kept, q, k, v, o);
template <class Cache, TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output,
          class... Options>
  requires KeyValueSource<std::remove_const_t<Cache>>
void razor_prefill(Cache& cache, Query const& query, Key const& key, Value const& value, Output&& output,
                   Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  call::allows<option::scale, option::position, option::log_sum_exp, option::executor>::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  index_t const tokens = q.extent(2), group_size = call::tokens_per_append(cache, tokens);
  detail::absent const none;
  detail::check_razor_positions(options...);
  auto const& as_appended = call::key_rotation(none, options...);
  call::plan_new_tokens<T>(cache, q, k, v, o, group_size, as_appended,
                           call::in_cache(call::kept_tokens(cache), options)...);
  for (index_t s = 0; s < cache.sequences(); ++s)
    detail::check_extent("cache", "tokens", cache.size(s), 0, "the prompt is to be its first");
  softmax_attention(q, k, v, o, causal{}, detail::in_text(options)...);
  for (index_t first = 0; first < tokens; first += group_size) {
    index_t const count = std::min(group_size, tokens - first);
    call::append_rotated(cache, detail::part(k, 2, first, count), detail::part(v, 2, first, count), as_appended);
  }
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
