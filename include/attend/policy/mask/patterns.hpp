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
//                                         shifted. Hengyu Zhang: SinkLoRA, 2024 (SF-Attn: some heads go back unshifted)
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

/// `left` and `right` count keys that are seen, which are `dilation` apart; -1 leaves a side open.
constexpr auto dilated_window(index_t left, index_t right, index_t dilation) {
  return window{left < 0 ? left : left * dilation, right < 0 ? right : right * dilation} & same_residue{dilation};
}

/// The local part has stride + 1 keys, as in the paper's text.
constexpr auto strided_pattern(index_t stride) { return (window{stride, 0} | same_residue{stride}) & causal{}; }

constexpr auto fixed_pattern(index_t stride, index_t columns) {
  return (block_window(stride) | key_columns{stride, stride - columns, columns, 0}) & causal{};
}

constexpr auto shifted_groups(index_t size, index_t heads) {
  return block_window(size).shifted(size / 2, heads / 2) & causal{};
}

constexpr auto sink_fixed_groups(index_t size, index_t first_shifted_head, index_t sinks) {
  return (block_window(size).shifted(size / 2, first_shifted_head) | keys_in(0, sinks)) & causal{};
}

/// `pieces`: the number of each token's piece, as for documents; the prefix and the last part have numbers of their
/// own.
inline auto parallel_context(index_list pieces, index_t prefix, index_t question) {
  return (documents(pieces) | keys_in(0, prefix) | queries_in(question, extend::token_limit)) & causal{};
}

/// Not causal. Head h takes the keys j of the sparse part with j mod f = h mod f.
constexpr auto local_sparse_global(index_t block, index_t factor, index_t global) {
  return block_window(block, block, block) |
         (key_columns{factor, 0, 1, 1} & block_window(block, (1 + factor) * block, (1 + factor) * block)) |
         global_tokens(global);
}

}  // namespace attend::inline ATTEND_TARGET
