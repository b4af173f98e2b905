// SPDX-License-Identifier: BSD-3-Clause
// Block-Attention: passages of a prompt are encoded apart, each as if it stood alone, and kept; a prompt that uses them
// takes their keys and values as they are, but for the positions of the keys.
//
//   block b of n_b tokens, at local positions 0 .. n_b - 1:   k_j, rotated by j
//   in a prompt that it enters at token p:                    k'_j = k_j rotated by p more = rotated by p + j
//
// A rotation by j and one by p are one by p + j, so no token is encoded anew. Tokens of a block see only their own
// block; the question at the end sees all blocks, and comes through cached_attention like any other new token.
//
//   blocks   any store; block b is its sequence b, encoded by cached_attention from an empty sequence
//   cache    any other store
//
// Cost: each key and value of the block is read and written once; one rotation is made for the whole block. Keys that
// are quantized are rounded twice, in the store of blocks and in the cache; values are not, as their scale is kept.
//
// Dongyang Ma, Yan Wang, Tian Lan: Block-Attention for Efficient Prefilling, 2024.
#pragma once

#include "../../cache/append.hpp"
#include "../../cache/quantize.hpp"
#include "../../core/scratch.hpp"
#include "../../policy/position/rotary.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Appends sequence `block` of `blocks` to sequence `sequence` of `cache`, and rotates its keys further by the number
/// of tokens that are there already. `position` is the rotation that the keys were given when the block was encoded.
/// Both stores have as many key heads and value heads, and equal dimensions.
///
/// Throws argument_error, before anything is written, where shapes do not fit, the block has dropped tokens, or the
/// cache has no room.
///
///     paged_cache<float> blocks(shape, {.pages = 1024, .page_tokens = 16});
///     append_block(blocks, 3, cache, 0, position);  // passage 3 enters the prompt of sequence 0
template <KeyValueSource Blocks, KeyValueSource Cache>
void append_block(Blocks const& blocks, index_t block, Cache& cache, index_t sequence,
                  rotary<rotary_frequencies> const& position) {
  arithmetic_mode const arithmetic;
  using A = storage_accumulation_t<typename Blocks::key_element>;
  detail::check_sequence(block, blocks.sequences(), "block");
  detail::check_sequence(sequence, cache.sequences());
  if (static_cast<void const*>(&blocks) == static_cast<void const*>(&cache) && block == sequence)
    fail("block", "expected another sequence than the one appended to, got ", block, " for both");
  detail::check_extent("blocks", "key heads", detail::key_heads_of(blocks), detail::key_heads_of(cache), "the cache");
  detail::check_extent("blocks", "value heads", detail::value_heads_of(blocks), detail::value_heads_of(cache),
                       "the cache");
  detail::check_extent("blocks", "key dimension", blocks.key_dimension(), cache.key_dimension(), "the cache");
  detail::check_extent("blocks", "value dimension", blocks.value_dimension(), cache.value_dimension(), "the cache");
  detail::check_readable(blocks);
  position.check(token_positions(), 1, 1, cache.key_dimension());
  index_t const tokens = blocks.size(block), keys = cache.key_dimension(), values = cache.value_dimension();
  for (index_t head = 0; head < blocks.key_value_heads(); ++head)
    if (blocks.stored(block, head) != tokens)
      fail("blocks", "expected all ", tokens, " tokens of block ", block, ", got ", blocks.stored(block, head));

  constexpr index_t rows_per_block = 32;
  scratch memory;
  A* const key = memory.allocate<A>(rows_per_block * keys);
  A* const value = memory.allocate<A>(rows_per_block * values);
  index_t const offset = cache.size(sequence);
  auto const turn =
      position.rotation_by(token_place::on_all_axes(0, offset), memory.allocate<A>(position.buffer_size()));
  cache.make_room(sequence, tokens);
  for (index_t head = 0; head < blocks.key_value_heads(); ++head)
    for (index_t first = 0, count; first < tokens; first += count) {
      auto const run = blocks.rows(block, head, first);
      count = std::min({run.count, rows_per_block, tokens - first});
      for (index_t row = 0; row < count; ++row) {
        detail::read_key(run, row, keys, key + row * keys);
        turn.apply(key + row * keys, key + row * keys, keys);
        detail::read_value(run, row, values, value + row * values);
      }
      cache.write(sequence, head, offset + first, tensor_view<A const, 2>(key, {count, keys}),
                  tensor_view<A const, 2>(value, {count, values}));
    }
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
