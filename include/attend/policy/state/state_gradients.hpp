// SPDX-License-Identifier: BSD-3-Clause
// What linear_attention_backward gives besides the gradients of queries, keys and values, and what it may be given.
//
//   gradient_of_decay{t}             by the logarithms of the decay. That of head_decay: [state head], summed up over
//                                    tokens and batches. That of token_decay: [batch, state head, token], and that of
//                                    feature_decay: [batch, state head, token, feature], each of its own batch and
//                                    head, also where the decay has one for all.
//   gradient_of_rates{t}             by the numbers of input_gates or delta_rule: [batch, state head, token]
//   gradient_of_initial_state{s}     written: that of the state before the first token
//   gradient_of_final_state{s}       read: that of the state after the last token; without it, 0
//
// Gradients of states have the shapes of states, [batch, state head, feature, value dimension], and of the sum of keys
// [batch, state head, feature] where the normalizer has one. All hold the accumulation type: float, or double for
// tensors of double. The two of states may be the same memory: so a long sequence may come in pieces, from the last to
// the first.
#pragma once

#include "../../core/options.hpp"
#include "../../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::linear {

/// Takes the gradient of the decays' logarithms; shapes stand at the beginning of this file. A call throws
/// argument_error where its shape or memory does not fit.
///
///     linear_attention_backward(q, k, v, of_o, of_q, of_k, of_v, causal{}, token_decay(tokens),
///     gradient_of_decay(gates));
template <class A, int Rank>
struct gradient_of_decay {
  using option_kind = option::gradient_of_decay;
  tensor_view<A, Rank> gradient;

  template <TensorArgument Tensor>
  explicit gradient_of_decay(Tensor&& tensor) : gradient(view_of(tensor)) {}
};
template <class Tensor>
gradient_of_decay(Tensor&&) -> gradient_of_decay<element_of_t<Tensor>, rank_of<Tensor>>;

/// Takes the gradient of the rates of a delta rule, or of input gates, [batch, state head, token]. A call throws
/// argument_error where its shape or memory does not fit.
///
///     linear_attention_backward(q, k, v, of_o, of_q, of_k, of_v, causal{}, delta_rule(tokens),
///     gradient_of_rates(gates));
template <class A>
struct gradient_of_rates {
  using option_kind = option::gradient_of_rates;
  tensor_view<A, 3> gradient;

  template <TensorArgument Tensor>
  explicit gradient_of_rates(Tensor&& tensor) : gradient(raise<3>(view_of(tensor))) {}
};
template <class Tensor>
gradient_of_rates(Tensor&&) -> gradient_of_rates<element_of_t<Tensor>>;

/// Takes the gradient of the state before the first token, [batch, state head, feature, value dimension], and where the
/// normalizer sums keys that of the sum, [batch, state head, feature]. A call throws argument_error where shapes or
/// memory do not fit.
///
///     linear_attention_backward(q, k, v, of_o, of_q, of_k, of_v, causal{}, initial_state(state),
///                               gradient_of_initial_state(state2));
template <class A>
struct gradient_of_initial_state {
  using option_kind = option::gradient_of_initial_state;
  tensor_view<A, 4> state;
  tensor_view<A, 3> key_sum;

  template <TensorArgument State>
  explicit gradient_of_initial_state(State&& tensor) : state(raise<4>(view_of(tensor))) {}
  template <TensorArgument State, TensorArgument Sum>
  gradient_of_initial_state(State&& tensor, Sum&& sum)
      : state(raise<4>(view_of(tensor))), key_sum(raise<3>(view_of(sum))) {}
};
template <class State>
gradient_of_initial_state(State&&) -> gradient_of_initial_state<element_of_t<State>>;
template <class State, class Sum>
gradient_of_initial_state(State&&, Sum&&) -> gradient_of_initial_state<element_of_t<State>>;

/// Gives the gradient of the state after the last token, of the same shapes. A call throws argument_error where they do
/// not fit.
///
///     linear_attention_backward(q, k, v, of_o, of_q, of_k, of_v, causal{}, gradient_of_final_state(state2),
///                               gradient_of_initial_state(state2));  // in place
template <class A>
struct gradient_of_final_state {
  using option_kind = option::gradient_of_final_state;
  tensor_view<A const, 4> state;
  tensor_view<A const, 3> key_sum;

  template <TensorArgument State>
  explicit gradient_of_final_state(State const& tensor) : state(raise<4>(view_of(tensor))) {}
  template <TensorArgument State, TensorArgument Sum>
  gradient_of_final_state(State const& tensor, Sum const& sum)
      : state(raise<4>(view_of(tensor))), key_sum(raise<3>(view_of(sum))) {}
};
template <class State>
gradient_of_final_state(State const&) -> gradient_of_final_state<element_of_t<State const>>;
template <class State, class Sum>
gradient_of_final_state(State const&, Sum const&) -> gradient_of_final_state<element_of_t<State const>>;

}  // namespace attend::inline ATTEND_TARGET::linear
