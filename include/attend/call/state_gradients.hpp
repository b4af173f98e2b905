// SPDX-License-Identifier: BSD-3-Clause
// The plan of a call that gives the gradients of a call with a state: the options of that call, the gradients that are
// given, and those that are asked for.
#pragma once

#include "../engine/chunked/chunked_backward.hpp"
#include "../policy/state/state_gradients.hpp"
#include "state_plan.hpp"

namespace attend::inline ATTEND_TARGET::call {

using backward_state_options =
    allows<option::mask, option::scale, option::decay, option::update, option::features, option::state_normalizer,
           option::initial_state, option::chunk_length, option::gradient_of_decay, option::gradient_of_rates,
           option::gradient_of_initial_state, option::gradient_of_final_state, option::executor>;

/// Refuses what has no gradient.
template <class Features, class Decay, class Update, class N, class A, class... Options>
constexpr void check_compatible_gradients() {
  static_assert(!FollowingFeatures<Features>, "attend: features that follow the sequence have no gradient");
  static_assert(HasPull<Features, A>,
                "attend: a feature map needs its derivative for a gradient: pull(rows, of_features, stride, to, "
                "to_stride) const; a function of the caller's is given as elementwise_features(function, derivative)");
  static_assert(!N::whole_rows, "attend: of the normalizers of a state, key_sum alone has a gradient");
  static_assert(Decay::kind != extend::decay_kind::none || !detail::has_kind<option::gradient_of_decay, Options...>,
                "attend: gradient_of_decay is asked for, but there is no decay");
  static_assert(Update::has_rates || !detail::has_kind<option::gradient_of_rates, Options...>,
                "attend: gradient_of_rates is asked for, but neither input_gates nor delta_rule is given");
}

template <class View>
void check_gradient_shape(char const* argument, View const& gradient, typename View::extents_type const& expected,
                          char const* axes) {
  detail::check_output_view(argument, gradient);
  if (gradient.extents() != expected)
    fail(argument, "expected shape ", detail::shape_text<View::rank>(expected), " (", axes, "), got ",
         detail::shape_text<View::rank>(gradient.extents()));
}

/// The gradient of the decays' logarithms, with four axes: those that it does not have are 1 long.
template <class Decay, class A, int Rank>
tensor_view<A, 4> checked_decay_gradient(tensor_view<A, Rank> const& gradient, state_shape const& s) {
  char const* const name = "gradient_of_decay";
  if constexpr (Decay::kind == extend::decay_kind::vector) {
    auto const view = raise<4>(gradient);
    check_gradient_shape(name, view, {s.batches, s.state_heads(), s.keys, s.features},
                         "batch, state head, token, feature");
    return view;
  } else if constexpr (is_constant<Decay>) {
    static_assert(Rank == 1, "attend: the gradient of a decay of heads has one axis");
    check_gradient_shape(name, gradient, {s.state_heads()}, "state head");
    return {gradient.data(), {1, gradient.extent(0), 1, 1}, {0, gradient.stride(0), 0, 1}};
  } else {
    static_assert(Rank <= 3, "attend: the gradient of a decay of tokens has at most three axes");
    auto const view = raise<3>(gradient);
    check_gradient_shape(name, view, {s.batches, s.state_heads(), s.keys}, "batch, state head, token");
    return {view.data(),
            {view.extent(0), view.extent(1), view.extent(2), 1},
            {view.stride(0), view.stride(1), view.stride(2), 1}};
  }
}

/// Reads the options that are gradients.
template <class Decay, Element T, class... Options>
void read_gradients(engine::state_gradients<T>& g, state_shape const& s, bool sums_keys, Options&... options) {
  using A = accumulation_t<T>;
  detail::absent none;
  if constexpr (detail::has_kind<option::gradient_of_decay, Options...>) {
    auto const& asked = detail::find_option<option::gradient_of_decay>(none, options...).gradient;
    static_assert(std::same_as<typename std::remove_cvref_t<decltype(asked)>::value_type, A>,
                  "attend: gradients of decays hold the accumulation type: float, or double for tensors of double");
    g.of_decay = checked_decay_gradient<Decay>(asked, s);
  }
  if constexpr (detail::has_kind<option::gradient_of_rates, Options...>) {
    auto& asked = detail::find_option<option::gradient_of_rates>(none, options...);
    static_assert(std::same_as<std::remove_cvref_t<decltype(asked)>, gradient_of_rates<A>>,
                  "attend: gradients of rates hold the accumulation type: float, or double for tensors of double");
    g.of_rates = asked.gradient;
    check_gradient_shape("gradient_of_rates", g.of_rates, {s.batches, s.state_heads(), s.keys},
                         "batch, state head, token");
  }
  if constexpr (detail::has_kind<option::gradient_of_initial_state, Options...>) {
    auto& asked = detail::find_option<option::gradient_of_initial_state>(none, options...);
    static_assert(std::same_as<std::remove_cvref_t<decltype(asked)>, gradient_of_initial_state<A>>,
                  "attend: gradients of states hold the accumulation type: float, or double for tensors of double");
    detail::check_state_view("gradient_of_initial_state", asked.state, asked.key_sum, s, sums_keys);
    detail::check_output_view("gradient_of_initial_state", asked.state);
    detail::check_output_view("gradient_of_initial_state", asked.key_sum);
    g.of_initial_state = asked.state;
    g.of_initial_sum = asked.key_sum;
  }
  if constexpr (detail::has_kind<option::gradient_of_final_state, Options...>) {
    auto& given = detail::find_option<option::gradient_of_final_state>(none, options...);
    static_assert(std::same_as<std::remove_cvref_t<decltype(given)>, gradient_of_final_state<A>>,
                  "attend: gradients of states hold the accumulation type: float, or double for tensors of double");
    detail::check_state_view("gradient_of_final_state", given.state, given.key_sum, s, sums_keys);
    g.of_final_state = given.state;
    g.of_final_sum = given.key_sum;
  }
}

/// Checks the gradients of the call's own tensors.
template <Element T>
void check_tensor_gradients(engine::state_problem<T> const& p, engine::state_gradients<T> const& g) {
  using namespace detail;
  state_shape const& s = p.shape;
  check_view("of_output", g.of_output);
  std::array<index_t, 4> const output{s.batches, s.output_heads(), s.queries, s.value_dimension};
  if (g.of_output.extents() != output)
    fail("of_output", "expected shape ", shape_text<4>(output), " (batch, output head, query, value dimension), got ",
         shape_text<4>(g.of_output.extents()));
  auto const check_shape = [](char const* argument, auto const& gradient, char const* of, auto const& tensor) {
    check_output_view(argument, gradient);
    if (gradient.extents() != tensor.extents())
      fail(argument, "expected shape ", shape_text<4>(tensor.extents()), " (as ", of, "), got ",
           shape_text<4>(gradient.extents()));
  };
  check_shape("of_query", g.of_query, "query", p.query);
  check_shape("of_key", g.of_key, "key", p.key);
  check_shape("of_value", g.of_value, "value", p.value);
}

/// Checks that no gradient that is written overlaps another tensor of the call. But that of the initial state may be in
/// the memory of that of the final one.
template <Element T, class... Inputs>
void check_gradient_memory(engine::state_problem<T> const& p, engine::state_gradients<T> const& g,
                           Inputs const&... inputs) {
  using namespace detail;
  auto const rates = raise<4>(g.of_rates);
  auto const initial_sum = raise<4>(p.initial_sum);
  auto const of_initial = raise<4>(g.of_initial_sum);
  auto const of_final = raise<4>(g.of_final_sum);
  named_layout const written[] = {{"of_query", g.of_query},
                                  {"of_key", g.of_key},
                                  {"of_value", g.of_value},
                                  {"gradient_of_decay", g.of_decay},
                                  {"gradient_of_rates", rates},
                                  {"gradient_of_initial_state", g.of_initial_state},
                                  {"gradient_of_initial_state", of_initial}};
  named_layout const read[] = {{"query", p.query},
                               {"key", p.key},
                               {"value", p.value},
                               {"of_output", g.of_output},
                               {"initial_state", p.initial_state},
                               {"initial_state", initial_sum}};
  check_apart(written, read);
  auto const same = [](auto const& a, auto const& b) { return a.data() == b.data() && a.strides() == b.strides(); };
  bool const in_place = same(g.of_initial_state, g.of_final_state), sum_in_place = same(of_initial, of_final);
  for (named_layout const& output : written) {
    bool const is_state = output.layout.data == g.of_initial_state.data(),
               is_sum = output.layout.data == of_initial.data();
    if (!(is_state && in_place))
      check_apart(output.argument, output.layout, "gradient_of_final_state", g.of_final_state);
    if (!(is_sum && sum_in_place)) check_apart(output.argument, output.layout, "gradient_of_final_state", of_final);
    (check_apart_from(output.argument, output.layout, inputs), ...);
  }
}

/// Checks everything, and runs.
template <Element T, class... Options>
void run_backward(engine::state_problem<T>& p, engine::state_gradients<T>& g, Options&&... options) {
  arithmetic_mode const arithmetic;
  backward_state_options::check<Options...>();
  using A = accumulation_t<T>;
  static_assert((has_state_members<Options, A>() && ...));
  using decay_type = std::remove_cvref_t<kept<option::decay, no_decay, Options...>>;
  using update_type = std::remove_cvref_t<kept<option::update, additive, Options...>>;
  using features_type = std::remove_cvref_t<kept<option::features, identity_features, Options...>>;
  using normalizer_type = std::remove_cvref_t<kept<option::state_normalizer, unnormalized, Options...>>;
  check_compatible_states<features_type, update_type, normalizer_type, Options...>();
  check_compatible_gradients<features_type, decay_type, update_type, normalizer_type, A, Options...>();
  full const everything;
  no_decay const undecayed;
  additive const adding;
  identity_features const identity;
  unnormalized const undivided;
  auto const& mask = detail::find_option<option::mask>(everything, options...);
  static_assert(std::same_as<std::remove_cvref_t<decltype(mask)>, causal> ||
                    std::same_as<std::remove_cvref_t<decltype(mask)>, full>,
                "attend: linear attention is causal{} or sees everything: a state knows no other mask");
  p.causal = std::same_as<std::remove_cvref_t<decltype(mask)>, causal>;
  detail::check_state_inputs(p);
  detail::check_last_at_last(mask, p.shape);
  check_tensor_gradients(p, g);
  auto const& decay = detail::find_option<option::decay>(undecayed, options...);
  auto const& update = detail::find_option<option::update>(adding, options...);
  auto const& features = detail::find_option<option::features>(identity, options...);
  auto const& normalizer = detail::find_option<option::state_normalizer>(undivided, options...);
  p.shape.features = features.features(p.shape.key_dimension);
  decay.check(p.shape);
  update.check(p.shape);
  features.check(p.shape);
  normalizer.check();
  p.scale = detail::scale_or<A>(1, options...);
  read_chunks(p, options...);
  detail::read_states(p, normalizer_type::sums_keys, options...);
  read_gradients<decay_type>(g, p.shape, normalizer_type::sums_keys, options...);
  check_gradient_memory(p, g, decay, update, features);
  auto& executor = executor_of(options...);
  using policies_type = engine::state_policies<decay_type, update_type, features_type, normalizer_type>;
  policies_type const policies{decay, update, features, normalizer};
  engine::run_backward_states<T>(p, g, engine::erased_state_policies<A, policies_type>(policies),
                                 engine::feature_slope<A, features_type>(features),
                                 attend::detail::any_executor(executor));
}

}  // namespace attend::inline ATTEND_TARGET::call
