// SPDX-License-Identifier: BSD-3-Clause
// The gradients of linear attention: from that of the output to those of queries, keys, values, decays, rates and the
// initial state.
//
//   S_t = diag(a_t) S_{t-1} + phi(k_t) w_t^T,   o_t = scale phi(q_t)^T S_t          as the forward call has it
//   dS_t = diag(a_{t+1}) dS_{t+1} + scale phi(q_t) do_t^T                           backward, from dS_n
//   dphi(q_t) = scale S_t do_t,   dphi(k_t) = dS_t w_t,   dw_t = dS_t^T phi(k_t)    additive
//   d log a_t = <dS_t, a_t S_{t-1}>,   dS_0 = diag(a_1) dS_1
//
// A delta rule, w_t = rate_t (v_t - k_t^T diag(a_t) S_{t-1}), reads the state as well:
//
//   dS_{t-1} = diag(a_t) (dS_t - k_t (rate_t dw_t)^T) + ...,   dv_t = rate_t dw_t
//
// Shapes are those of linear_attention; each gradient has the shape of its tensor. Heads that share a query, a key or a
// value add up there.
//
// Both recurrences go from chunk to chunk, and all work within a chunk is products of matrices
// (engine/chunked/chunk_gradient.hpp). Five products with a state where the forward call has two; the states between
// chunks are computed again, and kept as engine/chunked/chunked_backward.hpp says.
//
// Songlin Yang, Bailin Wang, Yikang Shen, Rameswar Panda, Yoon Kim: Gated Linear Attention Transformers with
// Hardware-Efficient Training, 2024; Songlin Yang, Bailin Wang, Yu Zhang, Yikang Shen, Yoon Kim: Parallelizing Linear
// Transformers with the Delta Rule over Sequence Length, 2024; the sum over pairs that gives a decay's gradient is
// derived in engine/chunked/chunk_gradient.hpp.
#pragma once

#include "../../call/state_gradients.hpp"
#include "linear_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace linear {

/// Writes the gradients of `query`, `key` and `value`, given that of the output of linear_attention with the same
/// options. All seven tensors have one element type. Options: causal, scale, decay, update, features that know their
/// derivative, normalizer (key_sum), initial_state, chunk_length, executor; gradient_of_decay, gradient_of_rates and
/// gradient_of_initial_state, which are written as well; and gradient_of_final_state. Results have the same bits for
/// any number of threads and in any batch.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     linear_attention_backward(q, k, v, of_o, of_q, of_k, of_v, causal{});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument OfOutput,
          TensorArgument OfQuery, TensorArgument OfKey, TensorArgument OfValue, class... Options>
void linear_attention_backward(Query const& query, Key const& key, Value const& value, OfOutput const& of_output,
                               OfQuery&& of_query, OfKey&& of_key, OfValue&& of_value, Options&&... options) {
  using T = typename call::written_element_type<OfQuery, Query, Key, Value, OfOutput, OfKey, OfValue>::type;
  engine::state_problem<T> problem;
  problem.query = extend::raise<4>(view_of(query));
  problem.key = extend::raise<4>(view_of(key));
  problem.value = extend::raise<4>(view_of(value));
  engine::state_gradients<T> gradients;
  gradients.of_output = extend::raise<4>(view_of(of_output));
  gradients.of_query = extend::raise<4>(view_of(of_query));
  gradients.of_key = extend::raise<4>(view_of(of_key));
  gradients.of_value = extend::raise<4>(view_of(of_value));
  call::run_backward(problem, gradients, options...);
}

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
