// SPDX-License-Identifier: BSD-3-Clause
// Sentinel tokens: spans of a text stand between an opening and a closing sentinel, [CL] x ... x [CR], and the closing
// one takes the place of its span for everything behind it. Everything is causal, and
//
//   [CL]              sees itself alone
//   [CR]              sees its own span, both sentinels included
//   any other token   sees its own span, tokens outside of spans, and earlier closing sentinels
//
// so that after a span the keys and values of all but [CR] can be dropped. That tokens of a span do not see its [CR],
// on which readings of the paper differ, follows from the order.
//
// sentinel_positions: a sentinel stands at the position of the token before it, so that the text's tokens stand where
// they would without sentinels, whatever was dropped.
//
// Siyu Ren, Qi Jia, Kenny Q. Zhu: Context Compression for Auto-regressive Transformers with Sentinel Tokens, 2023.
#pragma once

#include <vector>

#include "../../core/index_list.hpp"
#include "mask.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Shows the tokens of a span to that span alone, and its closing sentinel to everything behind it. A call throws
/// argument_error where the lists differ in length or do not ascend.
///
///     softmax_attention(q, k, v, o, sentinel_spans{first, last} & causal{});
class sentinel_spans {
 public:
  using option_kind = option::mask;

  /// Positions of the opening and of the closing sentinels, ascending: open[0] < close[0] < open[1] < ...
  sentinel_spans(index_list open, index_list close) : open_(open), close_(close) {}

  void check(extend::problem_shape const& shape) const {
    if (open_.size() != close_.size())
      extend::fail("sentinel_spans", "expected as many opening sentinels as closing ones, got ", open_.size(), " and ",
                   close_.size());
    for (index_t s = 0; s < open_.size(); ++s)
      if (open_[s] < (s > 0 ? close_[s - 1] + 1 : 0) || close_[s] <= open_[s] || close_[s] >= shape.keys)
        extend::fail("sentinel_spans", "expected ascending spans below ", shape.keys, ", got ", open_[s], " to ",
                     close_[s], " at ", s);
  }
  template <class T>
  extend::key_range bounds(extend::tile_rows<T> const& rows) const {
    return {0, std::clamp<index_t>(rows.last_position + 1, 0, rows.keys)};
  }
  template <class T>
  extend::key_range next(extend::tile_rows<T> const& rows, index_t from) const {
    // The span in which the tile may begin to look, or the one behind.
    index_t span = begun(from) - 1;
    if (span >= 0 && from < close_[span] && !meets(rows, span)) from = close_[span];
    for (++span; span < open_.size() && meets(rows, span);) ++span;
    return extend::intersection({from, span < open_.size() ? open_[span] : rows.keys}, bounds(rows));
  }
  template <class T>
  extend::visibility classify(extend::tile_rows<T> const& rows, extend::key_range range) const {
    if (next(rows, range.first).empty() || next(rows, range.first).first >= range.last) return extend::visibility::none;
    bool every = range.last - 1 <= rows.first_position;
    for (index_t key = range.first; every && key < range.last; ++key) every = is_public(key);
    for (index_t p = rows.first_position; every && p <= rows.last_position; ++p) every = !is_sentinel(p);
    return every ? extend::visibility::all : extend::visibility::some;
  }
  template <class T>
  auto bind(extend::tile_rows<T> const& rows, extend::key_range range) const {
    struct bound {
      // The number of the query's own span, and what a public key's must be above for it: nobody's span, and nothing.
      extend::lane_values<T> own, floor;
      index_t first;
      T span[extend::max_block_keys], open[extend::max_block_keys];
      auto operator()(extend::mask_place<T> const& place) const {
        index_t const at = place.key_index - first;
        auto const same = own.at(place.lane) == simd::vector<T>(span[at]);
        auto const seen = same | (simd::vector<T>(open[at]) > floor.at(place.lane));
        return (place.key_position <= place.query_position) & simd::reinterpret_mask<extend::position_t<T>>(seen);
      }
    };
    bound result{extend::lane_values<T>([&](int lane) { return span_of(rows.position[lane], -2); }),
                 extend::lane_values<T>([&](int lane) { return is_sentinel(rows.position[lane]) ? 1 : 0; }),
                 range.first,
                 {},
                 {}};
    for (index_t key = range.first; key < range.last; ++key) {
      result.span[key - range.first] = static_cast<T>(span_of(key, -1));
      result.open[key - range.first] = is_public(key);
    }
    return result;
  }

 private:
  /// Spans that have begun at a position.
  index_t begun(index_t position) const {
    index_t first = 0, last = open_.size();
    while (first < last) {
      index_t const middle = first + (last - first) / 2;
      if (open_[middle] <= position)
        first = middle + 1;
      else
        last = middle;
    }
    return first;
  }
  index_t span_of(index_t position, index_t outside) const {
    index_t const span = begun(position) - 1;
    return span >= 0 && position <= close_[span] ? span : outside;
  }
  bool is_sentinel(index_t position) const {
    index_t const span = begun(position) - 1;
    return span >= 0 && (position == open_[span] || position == close_[span]);
  }
  /// Seen by those behind: outside of spans, or a closing sentinel.
  bool is_public(index_t position) const {
    index_t const span = begun(position) - 1;
    return span < 0 || position >= close_[span];
  }
  /// Whether some of a tile's queries stand in the span.
  template <class T>
  bool meets(extend::tile_rows<T> const& rows, index_t span) const {
    return open_[span] <= rows.last_position && rows.first_position <= close_[span];
  }

  index_list open_, close_;
};

}  // namespace options

namespace systems {

/// Gives the positions of `tokens` tokens, of which the sentinels, those of sentinel_spans, do not advance: each stands
/// where the token before it does, and at 0 before the first one. Throws argument_error where the lists differ in
/// length or do not ascend, or where the number of tokens is negative.
///
///     std::vector<int> const open{2}, close{4};
///     std::vector<index_t> const places = sentinel_positions(open, close, 7);  // 0, 1, 1, 2, 2, 3, 4
inline std::vector<index_t> sentinel_positions(index_list open, index_list close, index_t tokens) {
  if (tokens < 0) fail("tokens", "expected at least 0, got ", tokens);
  problem_shape shape{};
  shape.keys = token_limit;
  options::sentinel_spans(open, close).check(shape);
  std::vector<index_t> place(static_cast<std::size_t>(tokens));
  index_t next = 0, span = 0;
  for (index_t t = 0; t < tokens; ++t) {
    while (span < close.size() && close[span] < t) ++span;
    bool const sentinel = span < close.size() && (open[span] == t || close[span] == t);
    place[static_cast<std::size_t>(t)] = sentinel ? std::max<index_t>(next - 1, 0) : next++;
  }
  return place;
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
