// SPDX-License-Identifier: BSD-3-Clause
// How products of 16-bit elements are computed where a machine has faster ones than those of floats.
//
//   (default)           by a matrix unit, where the code is compiled for one and the machine has it, or by instructions
//                       for pairs of bfloat16: the weights are rounded to bfloat16 before they are multiplied by
//                       values, which changes an output by at most 2^-8 of sum_j p_j |v_j|, and rotated queries and
//                       keys become sums of two bfloat16 each (engine/softmax/pair_parts.hpp); for gradients weights
//                       and what logits change by are rounded likewise (engine/softmax/backward_pairs.hpp); in linear
//                       attention whatever is no bfloat16 becomes a sum of two (engine/chunked/pair_chunk.hpp);
//                       and a few queries of half or bfloat16 with keys and values that are stored as integers: by
//                       products of integers, where the code is compiled for AVX-512 VNNI, for which queries and
//                       weights become integers of 16 bits (engine/softmax/split_integers.hpp)
//   full_precision{}    in float throughout, as everywhere else: several times slower with a matrix unit, and up to two
//                       times with stored integers
//
// All else is computed in float either way: scores, exponentials, the sum of the weights, and for a matrix unit the
// products of queries and keys, which are exact before they are summed. Elements of other types are never rounded.
#pragma once

#include "../core/options.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Asks that weights are not rounded to bfloat16 for a matrix unit, nor queries and weights to integers. It is an
/// option of softmax_attention on tensors and caches, softmax_attention_backward, cached_attention, decode_attention,
/// latent_attention, attention_weights and linear_attention.
///
///     softmax_attention(q, k, v, o, full_precision{});
struct full_precision {
  using option_kind = option::precision;
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
