// SPDX-License-Identifier: BSD-3-Clause
// LightNet's attention: linear attention whose normalizer is added up over time, a softmax over the tokens for each key
// channel.
//
//   S_t[c] = sum_{j <= t} exp(k_jc) v_j / sum_{j <= t} exp(k_jc)      o_t = silu(q_t)^T S_t
//
// Shapes, cost and options are those of linear_attention: with causal{} as written; without, one pass over all tokens
// in any order, which is what makes images of any number of dimensions one scan. States are S and z = log sum exp(k).
// Position terms (MD-LRPE, MD-TPE) and the gated root-mean-square norm that follows are the caller's; rms_norm{} is an
// option.
//
// Zhen Qin, Yuxin Mao, Xuyang Shen, Dong Li, Jing Zhang, Yuchao Dai, Yiran Zhong: You Only Scan Once: Efficient
// Multi-dimension Sequential Modeling with LightNet, 2024.
#pragma once

#include "../../policy/feature/silu.hpp"
#include "../../policy/feature/time_softmax.hpp"
#include "linear_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

using lightnet_features = time_softmax<identity_features, silu_features, time_weights::given>;

/// Attends with a softmax over time. Arguments, shapes and errors are those of linear_attention; features, decay and
/// update are not options.
///
///     lightnet_attention(q, k, v, o, causal{}, rms_norm{});
template <class... Arguments>
auto lightnet_attention(Arguments&&... arguments) {
  return linear_attention(std::forward<Arguments>(arguments)..., lightnet_features{});
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
