// SPDX-License-Identifier: BSD-3-Clause
// Planning and running, as in plan.hpp, a call that appends tokens to a cache and attends to them.
//
// A cache with a window accepts a limited number of tokens at a time (its chunk): a longer prompt is cut into parts.
// Each part is appended, and its queries attend to the tokens that the cache then keeps for them.
#pragma once

#include "../policy/mask/causal.hpp"
#include "plan.hpp"

namespace attend::inline ATTEND_TARGET::call {

/// Whether tokens can be appended to a store; a message says where they cannot.
template <class Cache>
consteval bool is_appendable() {
  static_assert(!std::is_const_v<Cache>, "attend: the cache is const: tokens are appended to it");
  static_assert(
      requires(std::remove_const_t<Cache>& cache, tensor_view<float const, 4> const& x) { cache.append(x, x); },
      "attend: this store takes no tokens: softmax_attention attends to those that it has");
  return true;
}

/// Whether an option forbids cutting the tokens into parts: positions that the caller gives are for all tokens of one
/// append.
template <class Option>
bool is_for_whole_calls(Option const& option) {
  if constexpr (detail::has_kind<option::position, Option>) return option.moved();
  return false;
}

/// How many of `tokens` tokens a cache accepts at a time.
template <class Cache>
index_t tokens_per_append(Cache const& cache, index_t tokens) {
  if constexpr (requires { cache.chunk(); }) return std::min<index_t>(cache.chunk(), tokens);
  return tokens;
}

/// Plans a call that appends tokens, `group_size` at a time, with keys rotated by `settings`, and attends to them with
/// these options. The plan is made before the cache changes, since no store can undo a change; attend_to_new_tokens
/// sets the queries of each part.
template <Element T, class Cache, class Rotary, class... Options>
auto plan_new_tokens(Cache const& cache, tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key,
                     tensor_view<T const, 4> const& value, tensor_view<T, 4> const& output, index_t group_size,
                     Rotary const& settings, Options&&... options) {
  index_t const tokens = query.extent(2);
  auto problem = cache_problem<T>(query, cache, output, tokens);
  detail::check_view("key", key);
  detail::check_extent("key", "tokens", key.extent(2), tokens, "query");
  detail::check_view("value", value);
  detail::check_extent("value", "tokens", value.extent(2), tokens, "query");
  cache.check_append(key, value, group_size, settings);
  // Written tensors must not overlap these either: later parts are read after the output of earlier parts is written.
  problem.key = key;
  problem.value = value;
  scratch memory;
  return plan_on_cache(std::move(problem), cache, padded_keys(lengths_in(cache, tokens, memory)),
                       std::forward<Options>(options)...);
}

/// Appends to all sequences, with keys rotated by `settings` unless it is absent.
template <class Cache, class Key, class Value, class Rotary>
void append_rotated(Cache& cache, Key const& key, Value const& value, Rotary const& settings) {
  if constexpr (std::same_as<Rotary, detail::absent>)
    cache.append(key, value);
  else
    cache.append(key, value, settings);
}

/// Appends the tokens of a plan, as many at a time as the cache accepts, and attends to them.
template <class Cache, class Rotary, class Plan>
void attend_to_new_tokens(Cache& cache, Rotary const& settings, Plan& plan) {
  auto& p = plan.problem;
  index_t const group_size = tokens_per_append(cache, p.shape.queries);
  for (index_t first = 0; first < p.shape.queries; first += group_size) {
    index_t const last = std::min(first + group_size, p.shape.queries);
    auto const part = [&](auto const& whole) { return detail::part(whole, 2, first, last - first); };
    append_rotated(cache, part(p.key), part(p.value), settings);
    scratch memory;
    p.sequences = detail::sequence_list(p.shape, detail::query_part{lengths_in(cache, 0, memory), first, last});
    run(plan, cache);
  }
}

/// An option as it applies to queries whose keys are in the cache: a mask is restricted to the tokens that the cache
/// keeps, and a rotation applies to queries alone, since stored keys are already rotated, unless it is one for places
/// of stored rows.
template <Mask M, class Option>
decltype(auto) in_cache(M const& kept, Option&& option) {
  if constexpr (detail::has_kind<option::mask, Option>)
    return kept & option;
  else if constexpr (detail::rotates_keys<std::remove_cvref_t<Option>> && !detail::rotates_as_read<Option>)
    return rotary_queries(option);
  else
    return static_cast<Option&&>(option);
}

/// The mask of a cache: all tokens up to the query's own, or those of them that the cache keeps for it.
template <class Cache>
auto kept_tokens(Cache const& cache) {
  if constexpr (requires { cache.chunk(); })
    return cache.mask();
  else
    return causal{};
}

/// The policy among the options that rotates keys as they are appended, or `none`.
template <class... Options>
auto const& key_rotation(detail::absent const& none, Options const&... options) {
  if constexpr ((detail::rotates_as_read<Options> || ...)) {
    auto const& placed = detail::find_option<option::position>(none, options...);
    if constexpr (std::remove_cvref_t<decltype(placed)>::turns_further)
      return placed.settings();
    else
      return none;
  } else if constexpr ((detail::rotates_keys<std::remove_cvref_t<Options>> || ...))
    return detail::find_option<option::position>(none, options...);
  else
    return none;
}

/// The plan of cached_attention: the new tokens attend to the tokens that the cache keeps, as far as a mask among the
/// options shows them.
template <class Allowed = softmax_options, Element T, class Cache, class... Options>
auto plan_cached(Cache const& cache, tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key,
                 tensor_view<T const, 4> const& value, tensor_view<T, 4> const& output, Options&&... options) {
  Allowed::template check<Options...>();
  index_t const tokens = query.extent(2), group_size = tokens_per_append(cache, tokens);
  if (group_size < tokens && (is_for_whole_calls(options) || ...))
    fail("query", "expected at most ", group_size,
         " tokens at a time (the cache's chunk) beside rotary.at(queries, keys), got ", tokens);
  detail::absent const none;
  auto kept = kept_tokens(cache);
  auto const& settings = key_rotation(none, options...);
  if constexpr (detail::has_kind<option::mask, Options...>)
    return plan_new_tokens<T>(cache, query, key, value, output, group_size, settings,
                              in_cache(kept, std::forward<Options>(options))...);
  else
    return plan_new_tokens<T>(cache, query, key, value, output, group_size, settings, std::move(kept),
                              in_cache(kept, std::forward<Options>(options))...);
}

}  // namespace attend::inline ATTEND_TARGET::call
