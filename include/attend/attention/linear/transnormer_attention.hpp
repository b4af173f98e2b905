// SPDX-License-Identifier: BSD-3-Clause
// TransNormerLLM's attention: linear attention with a decay for each head, positions as rotations, and a norm of the
// output in the place of a denominator.
//
//   a_ts = sum_c silu(q_t)_c silu(k_s)_c cos(theta_c (t - s)) lambda^(t - s)      s <= t      (LRPE-d)
//   o_t  = u_t * SRMSNorm([sum_s a_ts v_s of all heads])      SRMSNorm(x) = x / sqrt(mean_c(x_c^2) + 1e-6)
//
// The norm is over the heads side by side, as wide as the model, and behind it comes the gate u, an output_gate(x W_u)
// (TNL: of sigmoid(x W_u)); without one there is none. The projections around it are the caller's.
//
// The first layer turns with learned angles theta [query head, dimension]; the others are given none, and only decay.
// Its formula may also be read as pairs of dimensions that turn together, as rotary embeddings do: then silu(q) and
// silu(k) go through rotary_embedding, and to linear_attention with joined_rms_norm{}.
// lambda is the caller's: head_decay(transnormer_decays(heads, layer, layers)) as the paper prints it, or
// lightning_decays as the released models have it. Where query heads share keys and have angles of their own, each has
// a state of its own too; decays are for these, or for the heads that are shared.
//
// Inference is robust: one token takes S <- lambda S + k v^T, so that no power of 1 / lambda is ever formed. A sequence
// that comes in pieces says at which position each begins.
//
// Shapes, cost and options are those of linear_attention, always causal; with angles, twice as many features as
// dimensions.
//
// Zhen Qin et al.: TransNormerLLM: A Faster and Better Large Language Model with Improved TransNormer, 2023 (also
// published as Scaling TransNormer to 175 Billion Parameters); the rotation as in the authors' code, cosines and sines
// side by side, and the order as well: heads joined, normalized, gated. Zhen Qin et al.: Various Lengths, Constant
// Speed: Efficient Language Modeling with Lightning Attention, 2024 (TNL: the same layer, with values through silu as
// well).
#pragma once

#include "../../policy/decay/head_decay.hpp"
#include "../../policy/feature/rotation.hpp"
#include "../../policy/feature/silu.hpp"
#include "linear_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Makes features from learned angles [query head, dimension], in radians a token, and the position at which the first
/// key stands. One head of angles serves all, and those of key heads serve the query heads that share them.
///
///     transnormer_attention(q, k, v, o, head_decay(lightning_decays(8, 0, 24)), transnormer_rotation(matrix));
template <TensorArgument Angles>
auto transnormer_rotation(Angles const& angles, index_t first_position = 0) {
  return rotated(silu_features{}, angles, first_position);
}

/// Attends as a layer of TransNormerLLM. Arguments, shapes and errors are those of linear_attention; mask and
/// normalizer are not options. A decay must be among the options, transnormer_rotation(angles) is for the first layer,
/// and an output_gate is usual.
///
///     transnormer_attention(q, k, v, o, head_decay(lightning_decays(8, 0, 24)), output_gate(features));
template <class... Arguments>
auto transnormer_attention(Arguments&&... arguments) {
  static_assert(detail::count_of_kind<option::decay, Arguments...> == 1, "attend: transnormer_attention needs a decay");
  if constexpr (detail::has_kind<option::features, Arguments...>)
    return linear_attention(std::forward<Arguments>(arguments)..., causal{}, joined_rms_norm{});
  else
    return linear_attention(std::forward<Arguments>(arguments)..., causal{}, joined_rms_norm{}, silu_features{});
}

/// Gives the angles that the released models start from, [head, dimension], in radians a token: theta_c = 10000^(-2 c /
/// D), c counted through all heads' D dimensions.
///
///     std::vector<float> const angles = transnormer_angles(8, 128);
inline std::vector<float> transnormer_angles(index_t heads, index_t dimension) {
  arithmetic_mode const arithmetic;
  std::vector<float> angles;
  for (index_t c = 0; c < heads * dimension; ++c)
    angles.push_back(
        static_cast<float>(std::pow(10000.0, -2.0 * static_cast<double>(c) / static_cast<double>(heads * dimension))));
  return angles;
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
