// SPDX-License-Identifier: BSD-3-Clause
// Planning and running, as in plan.hpp, a call that carries a state.
#pragma once

#include "../engine/chunked/chunked.hpp"
#include "../engine/chunked/finished_rows.hpp"
#include "../policy/invariance.hpp"
#include "../policy/score/scale.hpp"
#include "../policy/state/output_gate.hpp"
#include "plan.hpp"
#include "state_problem.hpp"

namespace attend::inline ATTEND_TARGET::call {

using state_options = allows<option::mask, option::scale, option::decay, option::update, option::features,
                             option::state_normalizer, option::output_gate, option::initial_state, option::final_state,
                             option::chunk_length, option::invariance, option::precision, option::executor>;

/// Whether a feature map, or the map that it wraps, treats keys differently for each query head.
template <class Features>
bool separates_states(Features const& features, state_shape const& shape) {
  if constexpr (requires { features.own_states(shape); })
    return features.own_states(shape);
  else if constexpr (requires { features.map(); })
    return separates_states(features.map(), shape);
  else
    return false;
}

/// The plan of a call.
template <class Problem, class Decay, class Update, class Features, class N, class E, bool HasGate>
struct planned_states {
  static constexpr bool has_gate = HasGate;
  using normalizer_type = std::remove_cvref_t<N>;
  using features_type = std::remove_cvref_t<Features>;
  static constexpr bool sums_keys = [] {
    if constexpr (FollowingFeatures<features_type>)
      return features_type::sums_keys;
    else
      return normalizer_type::sums_keys;
  }();

  Problem problem;  // engine::state_problem<T>, or a reference to one
  Decay decay;
  Update update;
  Features features;
  N normalizer;
  E executor;
  tensor_view<typename std::remove_cvref_t<Problem>::element_type const, 4> gate{};

  auto policies() const {
    return engine::state_policies<Decay, std::remove_cvref_t<Update>, features_type, normalizer_type>{
        decay, update, features, normalizer};
  }

  /// Throws argument_error where a policy does not fit the shape of the call.
  void check() const {
    decay.check(problem.shape);
    update.check(problem.shape);
    if constexpr (FollowingFeatures<features_type>)
      features.check(problem.shape, problem.causal);
    else
      features.check(problem.shape);
    normalizer.check();
    detail::check_executor(executor);
  }
};

/// Refuses options that contradict each other.
template <class Features, class Update, class N, class... Options>
constexpr void check_compatible_states() {
  static_assert(!(Update::reads_state && N::sums_keys), "attend: a delta rule has no sum of keys to divide by");
  if constexpr (FollowingFeatures<Features>) {
    static_assert(!detail::has_kind<option::decay, Options...> && !detail::has_kind<option::update, Options...>,
                  "attend: features that follow the sequence say themselves how the state forgets and writes");
    static_assert(!N::sums_keys, "attend: features that follow the sequence are not divided by a sum of keys");
    static_assert(Features::resumes || (!detail::has_kind<option::initial_state, Options...> &&
                                        !detail::has_kind<option::final_state, Options...>),
                  "attend: these features cannot start from a state, nor leave one");
    static_assert(!detail::has_kind<option::invariance, Options...>,
                  "attend: features that follow the sequence are not chunk_invariant");
  }
}

/// Reads whether the mask is causal, and checks the tensors.
template <Element T, class M>
void read_mask(engine::state_problem<T>& p, M const& mask) {
  static_assert(std::same_as<M, causal> || std::same_as<M, full>,
                "attend: linear attention is causal{} or sees everything: a state knows no other mask");
  p.causal = std::same_as<M, causal>;
  detail::check_state_tensors(p);
  detail::check_last_at_last(mask, p.shape);
}

/// Reads the options that say how the tokens are cut into chunks.
template <Element T, class... Options>
void read_chunks(engine::state_problem<T>& p, Options const&... options) {
  detail::absent const none;
  if constexpr (detail::has_kind<option::chunk_length, Options...>) {
    p.chunk = detail::find_option<option::chunk_length>(none, options...).tokens;
    if (p.chunk < 1 || p.chunk > chunk_length::most)
      fail("chunk_length", "expected 1 to ", chunk_length::most, " tokens, got ", p.chunk);
  }
  if constexpr (detail::has_kind<option::invariance, Options...>) {
    if (!p.causal) fail("chunk_invariant", "expected a causal mask, got none: queries wait for the last key");
    p.token_by_token = true;
  }
}

/// Whether an option that is a decay, an update, a feature map or a normalizer has all members, for numbers of type A.
template <class Option, class A>
consteval bool has_state_members() {
  using type = std::remove_cvref_t<Option>;
  if constexpr (detail::has_kind<option::decay, type>)
    return detail::has_decay_members<type, A>();
  else if constexpr (detail::has_kind<option::update, type>)
    return detail::has_update_members<type, A>();
  else if constexpr (detail::has_kind<option::features, type>)
    return detail::has_feature_members<type, A>();
  else if constexpr (detail::has_kind<option::state_normalizer, type>)
    return detail::has_state_normalizer_members<type, A>();
  else
    return true;
}

/// The plan of a call on a problem that has its tensors. `memory` holds numbers that are computed from the decay, and
/// must outlive the plan.
template <class Problem, class... Options>
auto plan_states(Problem&& problem, scratch& memory, Options&&... options) {
  arithmetic_mode const arithmetic;
  state_options::check<Options...>();
  using T = typename std::remove_cvref_t<Problem>::element_type;
  static_assert((has_state_members<Options, accumulation_t<T>>() && ...));
  using decay_type = std::remove_cvref_t<kept<option::decay, no_decay, Options...>>;
  using update_type = kept<option::update, additive, Options...>;
  using features_type = kept<option::features, identity_features, Options...>;
  using normalizer_type = kept<option::state_normalizer, unnormalized, Options...>;
  check_compatible_states<std::remove_cvref_t<features_type>, std::remove_cvref_t<update_type>,
                          std::remove_cvref_t<normalizer_type>, Options...>();
  detail::absent const none;
  full const everything;
  no_decay const undecayed;
  planned_states<Problem, decay_type, update_type, features_type, normalizer_type,
                 kept<option::executor, serial, Options...>, detail::has_kind<option::output_gate, Options...>>
      made{std::forward<Problem>(problem),
           detail::find_option<option::decay>(undecayed, options...),
           keep<option::update, additive>(std::forward<Options>(options)...),
           keep<option::features, identity_features>(std::forward<Options>(options)...),
           keep<option::state_normalizer, unnormalized>(std::forward<Options>(options)...),
           keep<option::executor, serial>(std::forward<Options>(options)...)};
  engine::state_problem<T>& p = made.problem;
  read_mask(p, detail::find_option<option::mask>(everything, options...));
  p.shape.features = made.features.features(p.shape.key_dimension);
  p.shape.own_states = separates_states(made.features, p.shape);
  if constexpr (requires { made.decay.of_states(p.shape, memory); }) made.decay = made.decay.of_states(p.shape, memory);
  made.check();
  p.scale = detail::scale_or<accumulation_t<T>>(1, options...);
  p.full_precision = detail::has_kind<option::precision, Options...>;
  read_chunks(p, options...);
  detail::read_states(p, made.sums_keys, options...);
  if constexpr (made.has_gate) {
    auto& gate = detail::find_option<option::output_gate>(none, options...);
    static_assert(std::same_as<typename std::remove_cvref_t<decltype(gate)>::value_type, T>,
                  "attend: an output_gate has the element type of the output");
    gate.check(p.shape);
    made.gate = gate.view();
    detail::check_state_memory(p, gate, made.decay, made.update, made.features);
  } else {
    detail::check_state_memory(p, made.decay, made.update, made.features);
  }
  return made;
}

/// Runs a plan.
template <class Plan>
void run_states(Plan&& plan) {
  arithmetic_mode const arithmetic;
  auto& p = plan.problem;
  using plan_type = std::remove_cvref_t<Plan>;
  constexpr bool joins = joins_heads<typename plan_type::normalizer_type>;
  scratch memory;
  if constexpr (joins) {
    state_shape const& s = p.shape;
    using A = typename std::remove_cvref_t<decltype(p)>::A;
    p.mean_squares = {memory.allocate<A>(s.batches * s.output_heads() * s.queries),
                      {s.batches, s.output_heads(), s.queries}};
  }
  engine::run_chunked(p, plan.policies(), plan.executor);
  if constexpr (joins || plan_type::has_gate) engine::finish_rows(p, plan.normalizer, plan.gate, plan.executor);
}

}  // namespace attend::inline ATTEND_TARGET::call

#if defined(ATTEND_COMPILED)
#include "compiled/linear.hpp"
#endif
