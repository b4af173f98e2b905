// SPDX-License-Identifier: BSD-3-Clause
// How products of bfloat16 are computed.
//
//   (default)           by a matrix unit, where the code is compiled for one and the machine has it: the weights are
//                       rounded to bfloat16 before they are multiplied by values, which changes an output by at most
//                       2^-8 of sum_j p_j |v_j|
//   full_precision{}    in float throughout, as everywhere else: several times slower on such a machine
//
// All else is computed in float either way: the products of queries and keys, which are exact before they are summed,
// scores, exponentials and the sum of the weights. Elements of other types are never rounded.
#pragma once

#include "../core/options.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Asks that weights are not rounded to bfloat16 for a matrix unit. It is an option of softmax_attention on tensors and
/// caches, cached_attention and attention_weights.
///
///     softmax_attention(q, k, v, o, full_precision{});
struct full_precision {
  using option_kind = option::precision;
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
