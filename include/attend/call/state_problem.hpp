// SPDX-License-Identifier: BSD-3-Clause
// The tensors and states of a call that carries a state, as a problem whose shapes are checked.
//
//   query  [batch, query head, query, key dimension]     output [batch, output head, query, value dimension]
//   key    [batch, key head,   key,   key dimension]     value  [batch, value head, key, value dimension]
//   state  [batch, state head, feature, value dimension] and, where weights are divided by it, the sum of keys
//          [batch, state head, feature]
#pragma once

#include "../core/check.hpp"
#include "../core/options.hpp"
#include "../engine/chunked/state_problem.hpp"
#include "../policy/state/carried_state.hpp"

namespace attend::inline ATTEND_TARGET::detail {

inline void check_divides(char const* argument, index_t heads, index_t by, char const* as) {
  if (by == 0 ? heads != 0 : heads == 0 || by % heads != 0)
    fail(argument, "expected a head count that divides ", by, " (", as, "), got ", heads);
}

/// Checks the tensors that a call reads, and takes the shape from them.
template <Element T>
void check_state_inputs(engine::state_problem<T>& p) {
  check_view("query", p.query);
  check_view("key", p.key);
  check_view("value", p.value);
  state_shape& s = p.shape;
  s = {p.query.extent(0), p.query.extent(1), p.key.extent(1),   p.value.extent(1),
       p.query.extent(2), p.key.extent(2),   p.query.extent(3), p.value.extent(3)};
  check_extent("key", "batch", p.key.extent(0), s.batches, "query");
  check_extent("key", "head dimension", p.key.extent(3), s.key_dimension, "query");
  check_extent("value", "batch", p.value.extent(0), s.batches, "query");
  check_extent("value", "tokens", p.value.extent(2), s.keys, "key");
  check_divides("key", s.key_heads, s.state_heads(), "value");
  check_divides("value", s.value_heads, s.state_heads(), "key");
  check_divides("query", s.query_heads, s.output_heads(), "key and value");
  check_divides("value", s.state_heads(), s.output_heads(), "query");
  if (s.queries >= token_limit) fail("query", "expected fewer than ", token_limit, " tokens, got ", s.queries);
  if (s.keys >= token_limit) fail("key", "expected fewer than ", token_limit, " tokens, got ", s.keys);
  if (p.causal && s.queries > s.keys)
    fail("query", "expected at most as many tokens as the key's ", s.keys, " (causal), got ", s.queries);
}

template <Element T>
void check_state_tensors(engine::state_problem<T>& p) {
  check_state_inputs(p);
  state_shape const& s = p.shape;
  check_output_view("output", p.output);
  check_extent("output", "batch", p.output.extent(0), s.batches, "query");
  check_extent("output", "heads", p.output.extent(1), s.output_heads(), "query, key and value");
  check_extent("output", "tokens", p.output.extent(2), s.queries, "query");
  check_extent("output", "head dimension", p.output.extent(3), s.value_dimension, "value");
}

template <class View>
void check_state_view(char const* argument, View const& state,
                      tensor_view<typename View::value_type const, 3> const& sum, state_shape const& s,
                      bool sums_keys) {
  check_view(argument, state);
  std::array<index_t, 4> const expected{s.batches, s.state_heads(), s.features, s.value_dimension};
  if (state.extents() != expected)
    fail(argument, "expected shape ", shape_text<4>(expected), " (batch, state head, feature, value dimension), got ",
         shape_text<4>(state.extents()));
  if (!sums_keys) {
    if (sum.data())
      fail(argument, "expected no sum of keys (the normalizer has none), got one of shape ",
           shape_text<3>(sum.extents()));
    return;
  }
  check_view(argument, sum);
  std::array<index_t, 3> const expected_sum{s.batches, s.state_heads(), s.features};
  if (sum.extents() != expected_sum)
    fail(argument, "expected a sum of keys of shape ", shape_text<3>(expected_sum),
         " (batch, state head, feature), got ",
         sum.data() || !sum.empty() ? shape_text<3>(sum.extents()) : std::string("none"));
}

/// Checks that a written tensor does not overlap the tensor that an option reads, which has a name() and a view(), or
/// that the feature map within the option reads.
template <class View, class Option>
void check_apart_from(char const* name, View const& written, Option const& option) {
  if constexpr (requires { option.view(); })
    check_apart(name, written, option.name(), raise<4>(option.view()));
  else if constexpr (requires { option.map(); })
    check_apart_from(name, written, option.map());
}

/// Checks that no written tensor of the call overlaps another of its tensors. But the final state may be in the memory
/// of the initial state.
template <Element T>
void check_state_apart(engine::state_problem<T> const& p) {
  auto const sum = raise<4>(p.final_sum);
  auto const initial_sum = raise<4>(p.initial_sum);
  auto const apart = [&](char const* name, view_layout const& written) {
    check_apart(name, written, "query", p.query);
    check_apart(name, written, "key", p.key);
    check_apart(name, written, "value", p.value);
  };
  apart("output", p.output);
  apart("final_state", p.final_state);
  apart("final_state", sum);
  check_apart("output", p.output, "initial_state", p.initial_state);
  check_apart("output", p.output, "initial_state", initial_sum);
  check_apart("final_state", p.final_state, "output", p.output);
  check_apart("final_state", sum, "output", p.output);
  check_apart("final_state", sum, "the state", p.final_state);
  check_apart("final_state", sum, "initial_state", p.initial_state);
  check_apart("final_state", p.final_state, "the initial sum of keys", initial_sum);
  auto const same = [](auto const& a, auto const& b) { return a.data() == b.data() && a.strides() == b.strides(); };
  if (!same(p.final_state, p.initial_state))
    check_apart("final_state", p.final_state, "initial_state", p.initial_state);
  if (!same(sum, initial_sum)) check_apart("final_state", sum, "the initial sum of keys", initial_sum);
}

/// The same, and that none overlaps a tensor that an option reads.
template <Element T, class... Inputs>
void check_state_memory(engine::state_problem<T> const& p, Inputs const&... inputs) {
  check_state_apart(p);
  [[maybe_unused]] auto const sum = raise<4>(p.final_sum);
  (check_apart_from("output", p.output, inputs), ...);
  (check_apart_from("final_state", p.final_state, inputs), ...);
  (check_apart_from("final_state", sum, inputs), ...);
}

/// Checks the initial and final state, and puts them into the problem.
template <Element T, class... Options>
void read_states(engine::state_problem<T>& p, bool sums_keys, Options&... options) {
  using A = accumulation_t<T>;
  absent none;
  if constexpr (has_kind<option::initial_state, Options...>) {
    auto& initial = find_option<option::initial_state>(none, options...);
    static_assert(std::same_as<std::remove_cvref_t<decltype(initial)>, initial_state<A>>,
                  "attend: states hold the accumulation type: float, or double for tensors of double");
    check_state_view("initial_state", initial.state, initial.key_sum, p.shape, sums_keys);
    p.initial_state = initial.state;
    p.initial_sum = initial.key_sum;
  }
  if constexpr (has_kind<option::final_state, Options...>) {
    auto& last = find_option<option::final_state>(none, options...);
    static_assert(std::same_as<std::remove_cvref_t<decltype(last)>, final_state<A>>,
                  "attend: states hold the accumulation type: float, or double for tensors of double");
    check_state_view("final_state", last.state, last.key_sum, p.shape, sums_keys);
    check_output_view("final_state", last.state);
    check_output_view("final_state", last.key_sum);
    p.final_state = last.state;
    p.final_sum = last.key_sum;
  }
}

}  // namespace attend::inline ATTEND_TARGET::detail
