// SPDX-License-Identifier: BSD-3-Clause
// Streaming: each query sees the first tokens (the attention sinks) and the last ones up to its own. With p the query's
// position, key j is seen where j <= p and (j < sinks or p - j < window).
//
// With a list of heads only some key-value heads stream, and the others see everything up to their own position
// (retrieval heads).
//
// Guangxuan Xiao et al.: Efficient Streaming Language Models with Attention Sinks, 2023; Guangxuan Xiao et al.:
// DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads, 2024.
#pragma once

#include "../../core/index_list.hpp"
#include "mask.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Shows the first `sinks` tokens and the last `window` ones, the query's own among them. A call throws argument_error
/// where a number is out of range, or there is not one for each key-value head.
///
///     softmax_attention(q, k, v, o, streaming{4, 1024});
struct streaming {
  using option_kind = option::mask;
  index_t sinks = 0;
  /// How many of the last tokens a query sees, its own among them; at least 1.
  index_t window = 1;
  /// One number for each key-value head, which is 0 for heads that see everything. Without a list all heads stream.
  index_list heads = {};

  void check(extend::problem_shape const& shape) const {
    check_sizes("streaming");
    if (heads.size() != 0 && heads.size() != shape.key_heads)
      extend::fail("streaming", "expected one number for each of ", shape.key_heads, " key heads, got ", heads.size());
  }
  void check_sizes(char const* argument) const {
    if (sinks < 0 || sinks >= extend::token_limit)
      extend::fail(argument, "expected from 0 to ", extend::token_limit - 1, " sinks, got ", sinks);
    if (window < 1 || window >= extend::token_limit)
      extend::fail(argument, "expected a window from 1 to ", extend::token_limit - 1, ", got ", window);
  }
  template <class T>
  extend::key_range bounds(extend::tile_rows<T> const& rows) const {
    bool const from_window = sinks == 0 && streams(rows) == extend::visibility::all;
    return {from_window ? std::clamp<index_t>(rows.first_position - window + 1, 0, rows.keys) : 0,
            std::clamp<index_t>(rows.last_position + 1, 0, rows.keys)};
  }
  template <class T>
  extend::visibility classify(extend::tile_rows<T> const& rows, extend::key_range range) const {
    if (range.first > rows.last_position) return extend::visibility::none;
    extend::visibility const kind = streams(rows);
    bool const in_sinks = range.last <= sinks, past_sinks = range.first >= sinks;
    if (kind == extend::visibility::all && past_sinks && range.last - 1 <= rows.first_position - window)
      return extend::visibility::none;
    if (range.last - 1 > rows.first_position) return extend::visibility::some;
    bool const in_window = range.first > rows.last_position - window;
    return kind == extend::visibility::none || in_sinks || in_window ? extend::visibility::all
                                                                     : extend::visibility::some;
  }
  template <class T>
  auto bind(extend::tile_rows<T> const& rows, extend::key_range) const {
    return bound<T>(*this, rows);
  }

 private:
  /// How far each lane's query sees back.
  template <class T>
  struct bound {
    index_t sinks;
    alignas(64) extend::position_t<T> window[extend::tile_rows<T>::lanes];

    bound(streaming const& mask, extend::tile_rows<T> const& rows) : sinks(mask.sinks) {
      for (int lane = 0; lane < extend::tile_rows<T>::lanes; ++lane)
        window[lane] = static_cast<extend::position_t<T>>(mask.streams(rows, lane) ? mask.window : extend::token_limit);
    }
    ATTEND_INLINE auto operator()(extend::mask_place<T> const& place) const {
      simd::integers<T> const distance = place.query_position - place.key_position,
                              reach = simd::load(window + place.lane);
      return (distance >= 0) & ((place.key_position < sinks) | (distance < reach));
    }
  };

  template <class T>
  bool streams(extend::tile_rows<T> const& rows, int lane) const {
    return heads.size() == 0 || heads[rows.head[lane] / (rows.shape->query_heads / rows.shape->key_heads)] != 0;
  }
  /// Says whether none, some or all of the tile's heads stream.
  template <class T>
  extend::visibility streams(extend::tile_rows<T> const& rows) const {
    if (heads.size() == 0) return extend::visibility::all;
    bool some = false, every = true;
    for (int lane = 0; lane < rows.count; ++lane) {
      bool const one = streams(rows, lane);
      some |= one;
      every &= one;
    }
    return every ? extend::visibility::all : some ? extend::visibility::some : extend::visibility::none;
  }
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
