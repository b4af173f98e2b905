// SPDX-License-Identifier: BSD-3-Clause
// Whether a query's bits may depend on which other queries come in the same call.
//
//   (default)            a sequence has the same bits alone and in any batch, for any executor; but a token that is
//                        decoded alone may differ in its last bits from the same token in the middle of a prompt
//   chunk_invariant{}    nor on that: a prompt has the same bits however it is cut into calls, down to single tokens
//
// Softmax-like attention then always takes the tiled engine, in blocks of keys that end at fixed positions, and sums up
// a query's keys in one order, whatever the queries beside it see; a matrix unit, which multiplies whole groups of
// keys, takes groups that begin at fixed positions. Linear attention takes token after token.
//
// What it costs was measured on one core: see docs/semantics.md.
#pragma once

#include "../core/options.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Asks that a token's output has the same bits however its sequence is cut into calls. It is an option of
/// softmax_attention on tensors and caches, cached_attention, attention_weights, and linear_attention with a causal
/// mask. Keys must stand at the same positions in all calls, as they do in a cache; scores and masks must say the same
/// of a (query, key) pair in all of them.
///
///     cached_attention(cache, q, k, v, o, chunk_invariant{});
struct chunk_invariant {
  using option_kind = option::invariance;
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
