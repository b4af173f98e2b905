// SPDX-License-Identifier: BSD-3-Clause
// Linear attention: the programmable call for everything that carries a state.
//
//   S_t = diag(a_t) S_{t-1} + phi(k_t) w_t^T      w_t = v_t, or what the update policy says
//   x_t = scale * phi(q_t)^T S_t                  o_t = x_t divided by what the normalizer says, the scale in it too
//
//   query  [batch, query head, query, key dimension]
//   key    [batch, key head,   key,   key dimension]
//   value  [batch, value head, key,   value dimension]
//   output [batch, output head, query, value dimension]
//   state  [batch, state head, feature, value dimension]
//
// Without a mask every query reads the state after the last key, as full attention does; with causal{} query i reads it
// after its own token, and the last query stands at the last key. Scale is 1 unless given.
//
// Leading axes may be left out. Heads are grouped in both directions: state heads are the larger of key and value
// heads, output heads the largest of all three, and each count divides the larger ones. More query heads than key-value
// heads share states, as in grouped-query attention, unless the features turn with angles of each query head; more
// value heads than query and key heads are Mamba-2's and Gated DeltaNet's.
//
// Cost: engine/chunked/chunked.hpp says how many operations a token needs, whatever the length; memory for one state
// and one chunk per thread.
//
// Angelos Katharopoulos, Apoorv Vyas, Nikolaos Pappas, Francois Fleuret: Transformers are RNNs: Fast Autoregressive
// Transformers with Linear Attention, 2020: features elu_features{}, normalizer key_sum{}.
#pragma once

#include "../../core/check.hpp"
#include "../../engine/chunked/chunked.hpp"
#include "../../engine/chunked/finished_rows.hpp"
#include "../../policy/invariance.hpp"
#include "../../policy/mask/causal.hpp"
#include "../../policy/score/scale.hpp"
#include "../../policy/state/carried_state.hpp"
#include "../../policy/state/output_gate.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

template <class... Options>
constexpr void check_state_options() {
  static_assert((is_option<Options, option::mask, option::scale, option::decay, option::update, option::features,
                           option::state_normalizer, option::output_gate, option::initial_state, option::final_state,
                           option::chunk_length, option::invariance, option::executor> &&
                 ...),
                "attend: unknown option");
  static_assert(count_of_kind<option::mask, Options...> <= 1, "attend: mask given twice");
  static_assert(count_of_kind<option::decay, Options...> <= 1, "attend: decay given twice");
  static_assert(count_of_kind<option::update, Options...> <= 1, "attend: update given twice");
  static_assert(count_of_kind<option::features, Options...> <= 1, "attend: feature map given twice");
  static_assert(count_of_kind<option::state_normalizer, Options...> <= 1, "attend: normalizer given twice");
  static_assert(count_of_kind<option::output_gate, Options...> <= 1, "attend: output_gate given twice");
  static_assert(count_of_kind<option::initial_state, Options...> <= 1, "attend: initial_state given twice");
  static_assert(count_of_kind<option::final_state, Options...> <= 1, "attend: final_state given twice");
  static_assert(count_of_kind<option::chunk_length, Options...> <= 1, "attend: chunk_length given twice");
  static_assert(count_of_kind<option::invariance, Options...> <= 1, "attend: chunk_invariant given twice");
  static_assert(!has_kind<option::invariance, Options...> || !has_kind<option::chunk_length, Options...>,
                "attend: chunk_invariant takes token after token, in no chunks");
  static_assert(count_of_kind<option::executor, Options...> <= 1, "attend: executor given twice");
}

inline void check_divides(char const* argument, index_t heads, index_t by, char const* as) {
  if (by == 0 ? heads != 0 : heads == 0 || by % heads != 0)
    fail(argument, "expected a head count that divides ", by, " (", as, "), got ", heads);
}

template <Element T>
void check_state_tensors(engine::state_problem<T>& p) {
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

/// What is written is apart from what is read, by the options among it: inputs with a name() and a view(). But a state
/// may be updated where it stands.
template <Element T, class... Inputs>
void check_state_memory(engine::state_problem<T> const& p, Inputs const&... inputs) {
  auto const sum = raise<4>(p.final_sum);
  auto const initial_sum = raise<4>(p.initial_sum);
  auto const apart = [&](char const* name, auto const& written) {
    check_apart(name, written, "query", p.query);
    check_apart(name, written, "key", p.key);
    check_apart(name, written, "value", p.value);
    (check_apart(name, written, inputs.name(), raise<4>(inputs.view())), ...);
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

/// Calls call(policy) where it reads a tensor of the caller's, and call() where not. A feature map around another reads
/// what that one does.
template <class Policy, class Call>
void with_view(Policy const& policy, Call&& call) {
  if constexpr (requires { policy.view(); })
    call(policy);
  else if constexpr (requires { policy.map(); })
    with_view(policy.map(), call);
  else
    call();
}

/// Whether a feature map, or one that it is around, treats keys differently for each query head.
template <class Features>
bool separates_states(Features const& features, state_shape const& shape) {
  if constexpr (requires { features.own_states(shape); })
    return features.own_states(shape);
  else if constexpr (requires { features.map(); })
    return separates_states(features.map(), shape);
  else
    return false;
}

/// A decay as the states need it.
template <class Decay>
Decay decay_of_states(Decay const& decay, state_shape const& shape, scratch& memory) {
  if constexpr (requires { decay.of_states(shape, memory); })
    return decay.of_states(shape, memory);
  else
    return decay;
}

/// Reads initial and final state into the problem, and checks them.
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

/// Reads the options into the problem, checks them, and runs it.
template <Element T, class... Options>
void run_linear_attention(engine::state_problem<T>& p, Options&... options) {
  arithmetic_mode const arithmetic;
  using A = accumulation_t<T>;
  absent none;
  no_decay undecayed;
  additive usual;
  identity_features unchanged;
  unnormalized undivided;
  serial alone;

  if constexpr (has_kind<option::mask, Options...>) {
    auto& mask = find_option<option::mask>(none, options...);
    using mask_type = std::remove_cvref_t<decltype(mask)>;
    static_assert(std::same_as<mask_type, causal> || std::same_as<mask_type, full>,
                  "attend: linear attention is causal{} or sees everything: a state knows no other mask");
    if constexpr (std::same_as<mask_type, causal>) {
      p.causal = true;
      check_state_tensors(p);
      check_last_at_last(mask, p.shape);
    }
  }
  if (!p.causal) check_state_tensors(p);

  auto& update = find_option<option::update>(usual, options...);
  auto& features = find_option<option::features>(unchanged, options...);
  auto& normalizer = find_option<option::state_normalizer>(undivided, options...);
  auto& executor = find_option<option::executor>(alone, options...);
  using decay_type = std::remove_cvref_t<decltype(find_option<option::decay>(undecayed, options...))>;
  using update_type = std::remove_cvref_t<decltype(update)>;
  using features_type = std::remove_cvref_t<decltype(features)>;
  using normalizer_type = std::remove_cvref_t<decltype(normalizer)>;
  static_assert(!(update_type::reads_state && normalizer_type::sums_keys),
                "attend: a delta rule has no sum of keys to divide by");
  constexpr bool follows = FollowingFeatures<features_type>;
  bool sums_keys = normalizer_type::sums_keys;
  p.shape.features = features.features(p.shape.key_dimension);
  p.shape.own_states = separates_states(features, p.shape);
  scratch memory;
  decay_type const decay = decay_of_states(find_option<option::decay>(undecayed, options...), p.shape, memory);
  decay.check(p.shape);
  update.check(p.shape);
  if constexpr (follows) {
    static_assert(!has_kind<option::decay, Options...> && !has_kind<option::update, Options...>,
                  "attend: features that follow the sequence say themselves how the state forgets and writes");
    static_assert(!normalizer_type::sums_keys,
                  "attend: features that follow the sequence are not divided by a sum of keys");
    static_assert(features_type::resumes ||
                      (!has_kind<option::initial_state, Options...> && !has_kind<option::final_state, Options...>),
                  "attend: these features cannot start from a state, nor leave one");
    features.check(p.shape, p.causal);
    sums_keys = features_type::sums_keys;
  } else {
    features.check(p.shape);
  }
  normalizer.check();
  check_executor(executor);

  p.scale = scale_or<A>(1, options...);
  if constexpr (has_kind<option::chunk_length, Options...>) {
    p.chunk = find_option<option::chunk_length>(none, options...).tokens;
    if (p.chunk < 1 || p.chunk > chunk_length::most)
      fail("chunk_length", "expected 1 to ", chunk_length::most, " tokens, got ", p.chunk);
  }
  if constexpr (has_kind<option::invariance, Options...>) {
    static_assert(!follows, "attend: features that follow the sequence are not chunk_invariant");
    if (!p.causal) fail("chunk_invariant", "expected a causal mask, got none: queries wait for the last key");
    p.token_by_token = true;
  }
  read_states(p, sums_keys, options...);
  tensor_view<T const, 4> gate;
  auto const check_memory = [&](auto const&... with_gate) {
    with_view(decay, [&](auto const&... with_decays) {
      with_view(update, [&](auto const&... with_rates) {
        with_view(features, [&](auto const&... with_angles) {
          check_state_memory(p, with_gate..., with_decays..., with_rates..., with_angles...);
        });
      });
    });
  };
  if constexpr (has_kind<option::output_gate, Options...>) {
    auto& gates = find_option<option::output_gate>(none, options...);
    static_assert(std::same_as<typename std::remove_cvref_t<decltype(gates)>::value_type, T>,
                  "attend: an output_gate has the element type of the output");
    gates.check(p.shape);
    gate = gates.view();
    check_memory(gates);
  } else {
    check_memory();
  }

  if constexpr (joins_heads<normalizer_type>) {
    state_shape const& s = p.shape;
    p.mean_squares = {memory.allocate<A>(s.batches * s.output_heads() * s.queries),
                      {s.batches, s.output_heads(), s.queries}};
  }
  using policies = engine::state_steering<decay_type, update_type, features_type, normalizer_type>;
  engine::run_chunked(p, policies{decay, update, features, normalizer}, executor);
  if constexpr (joins_heads<normalizer_type> || has_kind<option::output_gate, Options...>)
    engine::finish_rows(p, normalizer, gate, executor);
}

}  // namespace detail

/// Linear attention of `query` to `key` and `value`, into `output`. All four have one element type (float, double,
/// half, bfloat16) and share no memory with the output. Options, in any order, one of each at most: causal, scale,
/// decay, update, feature map, normalizer, gate, initial and final state, chunk length, executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void linear_attention(Query const& query, Key const& key, Value const& value, Output&& output, Options&&... options) {
  using T = element_of_t<Output>;
  static_assert(Element<T>, "attend: elements are float, double, Eigen::half or Eigen::bfloat16");
  static_assert(std::same_as<element_of_t<Query const>, T> && std::same_as<element_of_t<Key const>, T> &&
                    std::same_as<element_of_t<Value const>, T>,
                "attend: query, key, value and output must have one element type");
  detail::check_state_options<Options...>();
  engine::state_problem<T> problem;
  problem.query = extend::raise<4>(view_of(query));
  problem.key = extend::raise<4>(view_of(key));
  problem.value = extend::raise<4>(view_of(value));
  problem.output = extend::raise<4>(view_of(output));
  detail::run_linear_attention(problem, options...);
}

/// The same, returned as an Eigen tensor with the axes of `query`, or of `value` where it has more heads. Needs
/// attend.hpp or core/eigen_tensor.hpp.
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, class... Options>
  requires(!(TensorArgument<Options> || ...))
auto linear_attention(Query const& query, Key const& key, Value const& value, Options&&... options) {
  using T = element_of_t<Query const>;
  constexpr int rank = rank_of<Query const>;
  auto extents = view_of(query).extents();
  auto const values = extend::raise<4>(view_of(value));
  auto const keys = extend::raise<4>(view_of(key));
  extents[rank - 1] = values.extent(3);
  if constexpr (rank >= 3) extents[rank - 3] = std::max({extents[rank - 3], keys.extent(1), values.extent(1)});
  auto output = detail::owned_tensor<T, rank>::with_extents(extents);
  linear_attention(query, key, value, output, std::forward<Options>(options)...);
  return output;
}

}  // namespace attend::inline ATTEND_TARGET
