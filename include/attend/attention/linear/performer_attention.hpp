// SPDX-License-Identifier: BSD-3-Clause
// Performer: softmax attention estimated by positive orthogonal random features (FAVOR+), in linear time.
//
//   o_i = sum_j (phi(q_i) . phi(k_j)) v_j / sum_j phi(q_i) . phi(k_j)      E[phi(q) . phi(k)] = exp(q . k / sqrt(d))
//
// Shapes, cost and options are those of linear_attention, causal{} among them, with as many features as there are
// directions; in addition a product of the directions with each query and key. More features are nearer to
// softmax_attention: the variance falls as 1 / features. States are means of the values and z, the logarithm of the sum
// of keys.
//
// Krzysztof Choromanski et al.: Rethinking Attention with Performers, 2021.
#pragma once

#include "../../policy/feature/random_features.hpp"
#include "linear_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Attends with random features. Arguments, shapes and errors are those of linear_attention; decay and update are not
/// options. `random_features`, which holds the directions, has no default.
///
///     random_features<float> const features_of_both(256, 128, 1);  // features, key dimension, seed
///     performer_attention(q, k, v, o, features_of_both, causal{});
template <class... Arguments>
auto performer_attention(Arguments&&... arguments) {
  static_assert(detail::count_of_kind<option::features, Arguments...> == 1,
                "attend: performer_attention needs random_features, which hold the directions");
  return linear_attention(std::forward<Arguments>(arguments)...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
