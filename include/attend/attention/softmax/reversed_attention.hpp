// SPDX-License-Identifier: BSD-3-Clause
// Reversed attention (DependencyViT): each token sends its value to those it attends to, instead of gathering theirs.
//
//   A   = softmax over j of scale * q_i . k_j      row i, a child, is a distribution over its parents j
//   o_j = sum_i A_ij m_i v_i                       O = A^T (m * V); m_i are gates of messages, or all 1
//   r_j = sum_i A_ij                               what token j receives (key_mass): leaves of the tree receive little
//
// Shapes are those of softmax_attention, but v has a row for each query of each query head, and o one for each key: of
// each query head, of each key head (its query heads added up) or one for all. Columns of A need not sum up to 1.
//
// Tokens with the least r may be pruned: top_k of the masses lists those that stay, and only they go on.
//
// Cost: two passes, of 4 * key dimension + 2 * value dimension operations for each visible pair; no weights are stored.
//
// Mingyu Ding et al.: Visual Dependency Transformers: Dependency Tree Emerges from Reversed Attention, 2023.
#pragma once

#include "key_sums.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Writes what each key receives, in the accumulation type: query [batch, query head, query, key dimension], key
/// [batch, key head, key, key dimension], value [batch, query head, query, value dimension], output [batch, head, key,
/// value dimension]. Options are those of transposed_attention: a mask, scores, scale, key_mass and an executor among
/// them. Results have the same bits for any number of threads.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     reversed_attention(q, q, v, o, scale{0.5}, key_mass(tokens));
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
  requires(!(TensorArgument<Options> || ...))
void reversed_attention(Query const& query, Key const& key, Value const& value, Output&& output, Options&&... options) {
  tensor_view<accumulation_t<element_of_t<Output>>, 3> const unknown;
  detail::send_rows(query, key, unknown, value, detail::absent{}, output, options...);
}

/// The same with a gate for each message, [batch, query head, query], in the accumulation type. Masses are without
/// gates.
///
///     reversed_attention(q, q, v, o, gates);
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, TensorArgument Gates,
          class... Options>
void reversed_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                        Gates const& message_gates, Options&&... options) {
  tensor_view<accumulation_t<element_of_t<Output>>, 3> const unknown;
  detail::send_rows(query, key, unknown, value, message_gates, output, options...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
