// SPDX-License-Identifier: BSD-3-Clause
// Latte, latent attention: tokens attend to each other through L latents, by two stochastic factors.
//
//   o_t = sum_l p(l | t) sum_{j <= t} p(j | l) v_j
//   p(l | t) = softmax over l of q_tl        p(j | l) = softmax over the tokens j <= t of k_jl
//
// Query and key are the latents' logits themselves: their head dimension is the number of latents of the head, and no
// scale is applied. With causal{} as written; without, each latent's softmax is over all tokens. Shapes, cost and
// options are those of linear_attention; states are S, the latents' means of the values, and z = log sum exp(k): a
// token more costs the same at any length.
//
// Rares Dolga, Lucas Maystre, Marius Cobzarenco, David Barber: Latent Attention for Linear Time Transformers, 2024.
#pragma once

#include "../../policy/feature/softmax_features.hpp"
#include "../../policy/feature/time_softmax.hpp"
#include "linear_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

using latte_features = time_softmax<identity_features, softmax_features, time_weights::given>;

/// Attends through latent tokens. Arguments, shapes and errors are those of linear_attention; features, decay and
/// update are not options.
///
///     latte_attention(q, k, v, o, causal{});
template <class... Arguments>
auto latte_attention(Arguments&&... arguments) {
  return linear_attention(std::forward<Arguments>(arguments)..., latte_features{});
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
