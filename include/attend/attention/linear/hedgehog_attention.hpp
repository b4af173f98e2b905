// SPDX-License-Identifier: BSD-3-Clause
// Hedgehog: linear attention with learned, spiky features that were trained to mimic the softmax's weights.
//
//   o_i = sum_j (phi(q_i) . phi(k_j)) v_j / (sum_j phi(q_i) . phi(k_j) + 1e-6)
//   phi(x) = softmax([W x + b, -(W x + b)])
//
// or phi(x) = [softmax(W x + b), softmax(-(W x + b))] with features.softmax_of_halves(), or phi(x) = [exp(W x + b),
// exp(-(W x + b))] and nothing added to the sum, with features.exponentials().
//
// Shapes, cost and options are those of linear_attention, causal{} among them, with twice as many features as
// dimensions.
//
// Michael Zhang, Kush Bhatia, Hermann Kumbong, Christopher Re: The Hedgehog & the Porcupine: Expressive Linear
// Attentions with Softmax Mimicry, 2024.
#pragma once

#include "../../policy/feature/hedgehog.hpp"
#include "linear_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Attends with learned, spiky features. Arguments, shapes and errors are those of linear_attention; the normalizer is
/// not an option. Unless hedgehog_features{...} are among the options, W is the identity, as before training, and b is
/// 0.
///
///     hedgehog_features<float> const layers(head_matrices, head_matrices);  // W, b
///     hedgehog_attention(q, k, v, o, layers, causal{});
template <class... Arguments>
auto hedgehog_attention(Arguments&&... arguments) {
  if constexpr (detail::has_kind<option::features, Arguments...>) {
    detail::absent none;
    auto const normalizer = detail::find_option<option::features>(none, arguments...).normalizer();
    return linear_attention(std::forward<Arguments>(arguments)..., normalizer);
  } else {
    using first = std::tuple_element_t<0, std::tuple<Arguments...>>;
    return linear_attention(std::forward<Arguments>(arguments)..., key_sum{},
                            hedgehog_features<accumulation_t<element_of_t<first const>>>{});
  }
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
