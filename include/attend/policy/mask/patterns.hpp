// SPDX-License-Identifier: BSD-3-Clause
// Published patterns that are combinations of masks, by name. Each is the masks on its right and nothing else; the
// engine visits their runs of keys alone.
//
// with l, n, ... as the papers have them, and all positions of queries bottom-right:
//
//   dilated_window(left, right, d)        every d-th key to both sides. Beltagy et al.: Longformer, 2020
//   strided_pattern(l)                    the last l keys and every l-th one. Child et al.: Sparse Transformers, 2019
//   fixed_pattern(l, c)                   the own block of l and the last c of every block. The same
//   shifted_groups(size, heads)           groups, in the second half of the heads shifted by half a group, causal.
//                                         Yukang Chen et al.: LongLoRA, 2023 (S2-Attn, without the leak of its roll)
//   sink_fixed_groups(size, head, sinks)  the same with the first keys seen by all, and only heads from `head` on
//                                         shifted. Hengyu Zhang: SinkLoRA, 2024 (SF-Attn: a part of the shifted groups
//                                         of attention heads, as its abstract calls them, goes back unshifted). Sinks
//                                         see all that is before them, which are sinks too
//   parallel_context(pieces, prefix, q)   pieces on their own behind a shared prefix; from position q on all is seen.
//                                         Zhisong Zhang et al.: Attention Entropy is a Key Factor, 2024
//   local_sparse_global(b, f, g)          neighbouring blocks, every f-th key of the f blocks beyond on either side,
//                                         and global tokens. Condevaux, Harispe: LSG Attention, 2022 (strides)
#pragma once

#include "block_window.hpp"
#include "causal.hpp"
#include "documents.hpp"
#include "global_tokens.hpp"
#include "parts.hpp"
#include "residues.hpp"
#include "window.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Counts keys that are seen, `left` and `right` of the query and `dilation` apart; -1 leaves a side open.
///
///     softmax_attention(q, k, v, o, dilated_window(128, 128, 4));
constexpr auto dilated_window(index_t left, index_t right, index_t dilation) {
  return window{left < 0 ? left : left * dilation, right < 0 ? right : right * dilation} & same_residue{dilation};
}

/// Shows stride + 1 local keys, as in the paper's text, and every stride-th one before them.
///
///     softmax_attention(q, k, v, o, strided_pattern(128));
constexpr auto strided_pattern(index_t stride) { return (window{stride, 0} | same_residue{stride}) & causal{}; }

/// Shows the own block of `stride` keys, and the last `columns` keys of every earlier block.
///
///     softmax_attention(q, k, v, o, fixed_pattern(128, 8));
constexpr auto fixed_pattern(index_t stride, index_t columns) {
  return (block_window(stride) | key_columns{stride, stride - columns, columns, 0}) & causal{};
}

/// Shows the own group of `size` tokens, causally; groups of the second half of the `heads` heads are shifted by half a
/// group.
///
///     softmax_attention(q, k, v, o, shifted_groups(2048, 32));
constexpr auto shifted_groups(index_t size, index_t heads) {
  return block_window(size).shifted(size / 2, heads / 2) & causal{};
}

/// Shows the same groups, of which heads from `first_shifted_head` on have shifted ones, and the first `sinks` keys.
///
///     softmax_attention(q, k, v, o, sink_fixed_groups(2048, 16, 4));
constexpr auto sink_fixed_groups(index_t size, index_t first_shifted_head, index_t sinks) {
  return (block_window(size).shifted(size / 2, first_shifted_head) | keys_in(0, sinks)) & causal{};
}

/// Shows each piece itself and the prefix, and the question everything before it. `pieces` has the number of each
/// token's piece, as for documents; the prefix and the question have numbers of their own. `prefix` is in tokens,
/// `question` the position of its first token.
///
///     softmax_attention(q, k, v, o, parallel_context(ids, 16, 4000));
inline auto parallel_context(index_list pieces, index_t prefix, index_t question) {
  return (documents(pieces) | keys_in(0, prefix) | queries_in(question, extend::token_limit)) & causal{};
}

/// Shows the local, sparse and global part of LSG attention with the strided selection, without a causal order: head h
/// has the keys j of the sparse part with j mod factor = h mod factor.
///
///     softmax_attention(q, k, v, o, local_sparse_global(128, 8, 1));
constexpr auto local_sparse_global(index_t block, index_t factor, index_t global) {
  return block_window(block, block, block) |
         (key_columns{factor, 0, 1, 1} & block_window(block, (1 + factor) * block, (1 + factor) * block)) |
         global_tokens(global);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
