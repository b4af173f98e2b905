// SPDX-License-Identifier: BSD-3-Clause
// Linear log-normal attention (LLN): exponential features of query and key, whose weights are distributed and
// concentrated as the softmax's are.
//
//   o_i = sum_j (exp(alpha q_i) . exp(beta k_j)) v_j / sum_j exp(alpha q_i) . exp(beta k_j)
//
// Shapes, cost and options are those of linear_attention, causal{} among them; states are means of the values and
// z = log sum exp(beta k). Of LLN+Diag, the mean of this and of a softmax within blocks, the second half is
// softmax_attention with documents{} for the blocks.
//
// Yury Nahshan, Joseph Kampeas, Emir Haleva: Linear Log-Normal Attention with Unbiased Concentration, 2024.
#pragma once

#include "../../policy/feature/log_normal.hpp"
#include "linear_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Attends with log-normal features. Arguments, shapes and errors are those of linear_attention; decay and update are
/// not options. The features are log_normal_features{alpha, beta}, which also finds alpha and beta for given
/// deviations; both are 1 unless given.
///
///     log_normal_attention(q, k, v, o, log_normal_features(2., 2.), causal{});
template <class... Arguments>
auto log_normal_attention(Arguments&&... arguments) {
  if constexpr (detail::has_kind<option::features, Arguments...>)
    return linear_attention(std::forward<Arguments>(arguments)...);
  else
    return linear_attention(std::forward<Arguments>(arguments)..., log_normal_features{});
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
