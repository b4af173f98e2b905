// SPDX-License-Identifier: BSD-3-Clause
// Based: linear attention with the Taylor polynomial of the softmax's exponential, beside exact attention in a small
// window.
//
//   linear    o_t = sum_{j <= t} f(q_t . k_j / sqrt(d)) v_j / (sum_{j <= t} f(q_t . k_j / sqrt(d)) + 1e-12)
//             f(z) = 1 + z + z^2 / 2
//   window    o_t = sum_j softmax_j(q_t . k_j / sqrt(d)) v_j      over the last `tokens` tokens, t among them
//
// They are layers of their own: the state remembers, the window compares. The head dimension d of the linear layer is
// small, 16 in the paper: its state has 1 + d + d (d + 1) / 2 rows, products of two dimensions being kept once. The two
// dials are d and the window, 64 to 128 tokens.
//
// Shapes and options are those of linear_attention and softmax_attention, both causal; so is the cost.
//
// Simran Arora, Sabri Eyuboglu, Michael Zhang, Aman Timalsina, Silas Alberti, Dylan Zinsley, James Zou, Atri Rudra,
// Christopher Re: Simple linear attention language models balance the recall-throughput tradeoff, 2024.
#pragma once

#include "../../policy/feature/taylor.hpp"
#include "../../policy/mask/window.hpp"
#include "../softmax/softmax_attention.hpp"
#include "linear_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// The linear layer. Arguments, shapes and errors are those of linear_attention; mask, features and normalizer are not
/// options, since this call sets them.
///
///     based_attention(q, k, v, o);
template <class... Arguments>
auto based_attention(Arguments&&... arguments) {
  return linear_attention(std::forward<Arguments>(arguments)..., causal{}, taylor_features{}, key_sum{1e-12});
}

/// The window layer: each query sees the last `tokens` keys, its own among them. Arguments, shapes and options are
/// those of softmax_attention but for the mask.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or the
/// window is less than 1 token.
///
///     based_window_attention(q, k, v, o, 64);
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void based_window_attention(Query const& query, Key const& key, Value const& value, Output&& output, index_t tokens,
                            Options&&... options) {
  if (tokens < 1) fail("tokens", "expected a window of at least 1 token, got ", tokens);
  softmax_attention(query, key, value, output, causal{} & window{tokens - 1, 0}, std::forward<Options>(options)...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
