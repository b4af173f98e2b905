// SPDX-License-Identifier: BSD-3-Clause
// One decay for each token, log_decays [batch, state head, token]:   S_t = a_t S_{t-1} + k_t v_t^T
//
// Batch and head may be 1 or left out. Tri Dao, Albert Gu: Transformers are SSMs: Generalized Models and Efficient
// Algorithms Through Structured State Space Duality, 2024 (Mamba-2); Songlin Yang, Jan Kautz, Ali Hatamizadeh: Gated
// Delta Networks: Improving Mamba2 with Delta Rule, 2024.
#pragma once

#include "decay.hpp"

namespace attend::inline ATTEND_TARGET {

namespace linear {

/// Decays the state by a number for each token: natural logarithms, at most 0, [batch, state head, token], in the
/// accumulation type. A call throws argument_error where their shape does not fit.
///
///     linear_attention(q, k, v, o, causal{}, token_decay(tokens));
template <class Value>
struct token_decay : detail::token_tensor<Value> {
  using option_kind = option::decay;
  static constexpr extend::decay_kind kind = extend::decay_kind::scalar;
  static constexpr bool constant = false;

  template <TensorArgument Tensor>
  explicit token_decay(Tensor const& log_decays)
      : detail::token_tensor<Value>(detail::token_tensor<Value>::of_tokens("token_decay", log_decays)) {}
};
template <class Tensor>
token_decay(Tensor const&) -> token_decay<element_of_t<Tensor const>>;

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
