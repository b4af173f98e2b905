// SPDX-License-Identifier: BSD-3-Clause
// Block windows: tokens stand in blocks of `size`, and all queries of a block see the same keys: their block, `left`
// keys before it and `right` keys behind it.
//
//   block_window(size)                   blocks on their own (segments, block-diagonal)
//   block_window(size, -1)               and everything before: causal from block to block, full within. Shiyue Cao et
//                                        al.: Efficient-VQGAN, 2023 (its second stage)
//   block_window(size, size, size)       and both neighbours: the local part of LSG (Charles Condevaux, Sebastien
//                                        Harispe, 2022)
//   block_window(size, size) & causal{}  the own and the last block, up to the own position: UnifiedGesture (Sicheng
//                                        Yang et al., 2023), blocks of 6
//   block_window(40, 5, 5)               overlapping chunks: TKL (Sebastian Hofstaetter et al.: Local Self-Attention
//                                        over Long Text for Efficient Document Retrieval, 2020)
//   block_window(size).shifted(by, head) blocks of heads from `head` on begin `by` tokens earlier: a roll of the tokens
//                                        without its leak from the end to the beginning
#pragma once

#include "interval_mask.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Shows every query of a block the block itself, `left` keys before it and `right` keys behind it, all in tokens. A
/// call throws argument_error where the size is less than 1 or a side less than -1.
///
///     softmax_attention(q, k, v, o, block_window(64) & causal{});  // segments of 64 tokens
class block_window : public extend::interval_mask<block_window> {
 public:
  /// A side of -1 is open. Blocks are counted by positions: key j is in block j / size.
  constexpr explicit block_window(index_t size, index_t left = 0, index_t right = 0)
      : size_(size), left_(left), right_(right) {}

  /// Gives the same with blocks that begin `by` tokens earlier, in heads from `first_head` on.
  constexpr block_window shifted(index_t by, index_t first_head = 0) const {
    block_window result = *this;
    result.shift_ = by;
    result.first_shifted_ = first_head;
    return result;
  }

  void check(extend::problem_shape const&) const {
    if (size_ < 1 || size_ >= extend::token_limit)
      extend::fail("block_window", "expected blocks of 1 to ", extend::token_limit - 1, " tokens, got ", size_);
    if (left_ < -1) extend::fail("block_window", "expected left of at least -1, got ", left_);
    if (right_ < -1) extend::fail("block_window", "expected right of at least -1, got ", right_);
    if (shift_ < 0 || shift_ >= size_)
      extend::fail("block_window", "expected a shift from 0 to ", size_ - 1, ", got ", shift_);
    if (first_shifted_ < 0)
      extend::fail("block_window", "expected a first shifted head of at least 0, got ", first_shifted_);
  }
  extend::tile_grain grain(extend::problem_shape const& shape) const {
    // Where blocks begin at odd places, cutting tiles there would make them too short.
    index_t const queries = std::gcd(std::gcd(size_, shift_), shape.keys - shape.queries);
    return {2 * queries >= size_ ? queries : 0, shift_ > 0 ? first_shifted_ : 0};
  }
  template <class T>
  extend::key_range interval(extend::tile_rows<T> const& rows, int lane) const {
    index_t const shift = rows.head[lane] >= first_shifted_ ? shift_ : 0, place = rows.position[lane] + shift;
    // Positions may be negative, where there are more queries than keys.
    index_t const block = (place >= 0 ? place : place - size_ + 1) / size_;
    return {block * size_ - shift - detail::reach_of(left_), (block + 1) * size_ - shift + detail::reach_of(right_)};
  }

 private:
  index_t size_, left_, right_, shift_ = 0, first_shifted_ = 0;
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
