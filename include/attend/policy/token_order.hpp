// SPDX-License-Identifier: BSD-3-Clause
// The order in which a kernel takes tokens. In another order than the tensors' own, tokens that see the same keys stand
// side by side, and what they see is a few long runs: boxes of an image, residue classes of a stride.
//
// An order says which tokens of its sequence stand at a range of positions, tokens_at(range, tokens), a bijection on
// [0, tokens); and how many from a position on lie at one distance from each other, run_at(position). Rows of keys and
// values are gathered block by block as they are needed, unless they lie so; queries where they are packed. Masks and
// scores see positions in that order. Where queries stand otherwise than keys, query_tokens_at(range, tokens) tells
// theirs.
#pragma once

#include "../core/types.hpp"

namespace attend::inline ATTEND_TARGET {

namespace extend {

/// The tensors' own order: nothing is gathered.
struct in_order {};

/// Tokens at one distance from each other: token, token + step, ...
struct token_run {
  index_t token, step, count;
};

}  // namespace extend

}  // namespace attend::inline ATTEND_TARGET
