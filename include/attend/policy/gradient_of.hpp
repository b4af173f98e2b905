// SPDX-License-Identifier: BSD-3-Clause
// What a backward call is given and gives besides the tensors of its call: gradients of its options. Each is asked for
// beside the option itself, and written in the accumulation type, in the option's own shape; an axis that the option
// shares is summed up.
//
//   of_log_sum_exp{t}            is read: the gradient of the log-sum-exp, where a loss depends on it or parts were
//                                merged by it: delta_i becomes delta_i - t_i
//   gradient_of_bias{t}          db_ij = p_ij (g_ij - delta_i) times the slopes of the scores after the bias
//   gradient_of_logit_scale{t}   of head_logit_scale or query_logit_scale: sum_j of the same times the logit before it
//   gradient_of_sinks{t}         ds_h = -sum_i exp(s_h - lse_i) delta_i
//   gradient_of_value_gain{t}    dy_j = v_j . sum_i p_ij do_i
//   gradient_of_head_gates{t}    dx_h = sum_i do_i . o_i / x_h
//
// Sums have one order for any number of threads: the bits are the same.
#pragma once

#include "output.hpp"

namespace attend::inline ATTEND_TARGET::options {

/// Gives a backward call the gradient of the log-sum-exp, [batch, query head, query], in the accumulation type, besides
/// that of the output. A call throws argument_error where its shape does not fit.
///
///     softmax_attention_backward(q, k, v, o, lse, of_o, of_q, of_k, of_v, of_log_sum_exp(of_lse));
template <class T>
struct of_log_sum_exp {
  using option_kind = option::of_log_sum_exp;
  tensor_view<T const, 3> rows;

  template <TensorArgument Tensor>
  explicit of_log_sum_exp(Tensor const& tensor) : rows(raise<3>(view_of(tensor))) {}
};
template <class Tensor>
of_log_sum_exp(Tensor const&) -> of_log_sum_exp<element_of_t<Tensor const>>;

/// Writes the gradient of the call's bias to a tensor of the bias's shape. A call throws argument_error where its shape
/// or memory does not fit.
///
///     softmax_attention_backward(q, k, v, o, lse, of_o, of_q, of_k, of_v, bias(pairs), gradient_of_bias(of_pairs));
template <class T>
struct gradient_of_bias : detail::output_tensor<option::gradient_of_bias, T, 4> {
  using detail::output_tensor<option::gradient_of_bias, T, 4>::output_tensor;
};
template <class Tensor>
gradient_of_bias(Tensor&&) -> gradient_of_bias<element_of_t<Tensor>>;

/// Writes the gradient of the call's temperatures to a tensor of their shape. A call throws argument_error where its
/// shape or memory does not fit.
///
///     softmax_attention_backward(q, k, v, o, lse, of_o, of_q, of_k, of_v, head_logit_scale(numbers),
///                                gradient_of_logit_scale(of_numbers));
template <class T, int Rank>
struct gradient_of_logit_scale {
  using option_kind = option::gradient_of_logit_scale;
  tensor_view<T, Rank> factors;

  template <TensorArgument Tensor>
  explicit gradient_of_logit_scale(Tensor&& tensor) : factors(view_of(tensor)) {}
};
template <class Tensor>
gradient_of_logit_scale(Tensor&&) -> gradient_of_logit_scale<element_of_t<Tensor>, rank_of<Tensor>>;

/// Writes the gradient of the call's sinks, [query head], or [1] for one number that all heads share. A call throws
/// argument_error where its shape or memory does not fit.
///
///     softmax_attention_backward(q, k, v, o, lse, of_o, of_q, of_k, of_v, sinks(numbers),
///     gradient_of_sinks(of_sinks));
template <class T>
struct gradient_of_sinks {
  using option_kind = option::gradient_of_sinks;
  tensor_view<T, 1> logits;

  template <TensorArgument Tensor>
  explicit gradient_of_sinks(Tensor&& tensor) : logits(view_of(tensor)) {
    static_assert(rank_of<Tensor> == 1, "attend: numbers for heads have one axis");
  }
};
template <class Tensor>
gradient_of_sinks(Tensor&&) -> gradient_of_sinks<element_of_t<Tensor>>;

/// Writes the gradient of the call's gains of values to a tensor of their shape. A call throws argument_error where its
/// shape or memory does not fit.
///
///     softmax_attention_backward(q, k, v, o, lse, of_o, of_q, of_k, of_v, value_gain(tokens),
///                                gradient_of_value_gain(of_tokens));
template <class T>
struct gradient_of_value_gain : detail::output_tensor<option::gradient_of_value_gain, T, 3> {
  using detail::output_tensor<option::gradient_of_value_gain, T, 3>::output_tensor;
};
template <class Tensor>
gradient_of_value_gain(Tensor&&) -> gradient_of_value_gain<element_of_t<Tensor>>;

/// Writes the gradient of the call's gates to a tensor of their shape. A call throws argument_error where its shape or
/// memory does not fit, or where a gate is 0: its head is not computed.
///
///     softmax_attention_backward(q, k, v, o, lse, of_o, of_q, of_k, of_v, head_gates(numbers),
///                                gradient_of_head_gates(of_numbers));
template <class T>
struct gradient_of_head_gates : detail::output_tensor<option::gradient_of_head_gates, T, 2> {
  using detail::output_tensor<option::gradient_of_head_gates, T, 2>::output_tensor;
};
template <class Tensor>
gradient_of_head_gates(Tensor&&) -> gradient_of_head_gates<element_of_t<Tensor>>;

}  // namespace attend::inline ATTEND_TARGET::options
