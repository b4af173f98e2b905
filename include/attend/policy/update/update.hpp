// SPDX-License-Identifier: BSD-3-Clause
// What a state writes, and what an update policy is. With S' = diag(a_t) S_{t-1}, the state after its decay:
//
//   additive{}        S_t = S' + k_t v_t^T                            the default
//   input_gates{g}    S_t = S' + g_t k_t v_t^T
//   delta_rule{b}     S_t = S' + b_t k_t (v_t - S'^T k_t)^T           what stands under k_t moves towards v_t
//
// g and b are [batch, state head, token]; batch and head may be 1 or left out. An update policy has
// read(batch, head, first, count, to), which writes the numbers of some tokens, unless it has none (`has_rates`), and
// says by `reads_state` whether what is written depends on the state.
//
// Imanol Schlag, Kazuki Irie, Juergen Schmidhuber: Linear Transformers Are Secretly Fast Weight Programmers, 2021 (the
// delta rule); Songlin Yang et al.: Parallelizing Linear Transformers with the Delta Rule over Sequence Length, 2024.
#pragma once

#include "../../core/options.hpp"
#include "../state/token_tensor.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

template <class U>
concept HasReadsState = requires {
  { U::reads_state } -> std::convertible_to<bool>;
  { U::has_rates } -> std::convertible_to<bool>;
};
template <class U, class A>
concept HasReadRates = !U::has_rates || requires(U const& update, index_t i, A* to) { update.read(i, i, i, i, to); };

/// Whether an update has all members, for numbers of type A; an error names each one that is missing.
template <class U, class A>
consteval bool has_update_members() {
  static_assert(HasCheck<U, extend::state_shape>, "attend: an update needs check(shape) const");
  static_assert(HasReadsState<U>, "attend: an update needs reads_state and has_rates, each a static constexpr bool");
  static_assert(HasReadRates<U, A>, "attend: an update that has_rates needs read(batch, head, first, count, to) const");
  return true;
}

}  // namespace detail

namespace extend {

/// What a state writes, in numbers of type A.
template <class U, class A = float>
concept Update = detail::has_kind<option::update, U> && detail::HasCheck<U, extend::state_shape> &&
                 detail::HasReadsState<U> && detail::HasReadRates<U, A>;

}  // namespace extend

namespace linear {

/// Adds what each token writes. It is the default.
struct additive {
  using option_kind = option::update;
  static constexpr bool reads_state = false, has_rates = false;

  void check(extend::state_shape const&) const {}
};

/// Multiplies what each token writes by a number: gates [batch, state head, token], in the accumulation type. A call
/// throws argument_error where their shape does not fit.
///
///     linear_attention(q, k, v, o, causal{}, input_gates(tokens), token_decay(tokens));
template <class Value>
struct input_gates : detail::token_tensor<Value> {
  using option_kind = option::update;
  static constexpr bool reads_state = false, has_rates = true;

  template <TensorArgument Tensor>
  explicit input_gates(Tensor const& gates)
      : detail::token_tensor<Value>(detail::token_tensor<Value>::of_tokens("input_gates", gates)) {}
};
template <class Tensor>
input_gates(Tensor const&) -> input_gates<element_of_t<Tensor const>>;

/// Moves what stands under a key towards its value, at a rate for each token: [batch, state head, token], in the
/// accumulation type. A call throws argument_error where their shape does not fit.
///
///     linear_attention(q, k, v, o, causal{}, delta_rule(tokens));
template <class Value>
struct delta_rule : detail::token_tensor<Value> {
  using option_kind = option::update;
  static constexpr bool reads_state = true, has_rates = true;

  template <TensorArgument Tensor>
  explicit delta_rule(Tensor const& rates)
      : detail::token_tensor<Value>(detail::token_tensor<Value>::of_tokens("delta_rule", rates)) {}
};
template <class Tensor>
delta_rule(Tensor const&) -> delta_rule<element_of_t<Tensor const>>;

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
