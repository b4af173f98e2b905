// SPDX-License-Identifier: BSD-3-Clause
// Prefix language model: everybody sees the first `length` keys, the rest is causal.
//
// Colin Raffel et al.: Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, 2020.
#pragma once

#include "causal.hpp"
#include "key_lengths.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Shows the first keys to everybody, and the others causally: causal{} | key_lengths{lengths}, with one prefix length
/// in tokens for all sequences, or one for each. Errors are those of key_lengths.
///
///     softmax_attention(q, k, v, o, prefix_lm{512});
struct prefix_lm {
  using option_kind = option::mask;

  constexpr explicit prefix_lm(index_t length, alignment aligned = bottom_right)
      : either_{{aligned}, key_lengths(length)} {}
  constexpr explicit prefix_lm(index_list lengths, alignment aligned = bottom_right)
      : either_{{aligned}, key_lengths(lengths)} {}

  void check(extend::problem_shape const& shape) const {
    either_.a.check(shape);
    either_.b.check("prefix_lm", shape);
  }
  template <class T>
  extend::key_range bounds(extend::tile_rows<T> const& rows) const {
    return either_.bounds(rows);
  }
  template <class T>
  extend::visibility classify(extend::tile_rows<T> const& rows, extend::key_range range) const {
    return either_.classify(rows, range);
  }
  template <class T>
  auto bind(extend::tile_rows<T> const& rows, extend::key_range range) const {
    return either_.bind(rows, range);
  }

 private:
  mask_or<causal, key_lengths> either_;
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
