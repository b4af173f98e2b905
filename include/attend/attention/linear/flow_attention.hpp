// SPDX-License-Identifier: BSD-3-Clause
// Flow-Attention: linear attention as a flow from keys to queries that is conserved at both ends, without a softmax
// over pairs.
//
//   o_i = sigmoid(I'_i L / S) I_i s(q_i)^T sum_j s(k_j) (c_j v_j)^T      c = S softmax(O')
//
// over all S keys, for L queries, and the same with sums over the tokens so far where causal: what I, I' and O' are
// stands in policy/feature/flow.hpp.
//
// Shapes, cost and options are those of linear_attention, but for states: without causal{} the flows need all queries
// at once. As many query heads as key heads; causal, as many queries as keys. No more than O(dimension) numbers are
// kept for each head beside the state.
//
// Haixu Wu, Jialong Wu, Jiehui Xu, Jianmin Wang, Mingsheng Long: Flowformer: Linearizing Transformers with Conservation
// Flows, 2022.
#pragma once

#include "../../policy/feature/flow.hpp"
#include "linear_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Attends as a flow that is conserved. Arguments, shapes and errors are those of linear_attention; features, decay,
/// update and states are not options.
///
///     flow_attention(q, k, v, o, causal{});
template <class... Arguments>
auto flow_attention(Arguments&&... arguments) {
  return linear_attention(std::forward<Arguments>(arguments)..., flow_features{});
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
