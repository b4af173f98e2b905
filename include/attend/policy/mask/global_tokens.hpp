// SPDX-License-Identifier: BSD-3-Clause
// Global tokens: some tokens see everybody and are seen by everybody; every other pair is hidden. Beside a local
// pattern:
//
//   window{256, 256} | global_tokens{8}          the first eight tokens are global
//   window{256, 256} | global_tokens{positions}  those at certain positions are, ascending
//
// Iz Beltagy, Matthew Peters, Arman Cohan: Longformer, 2020; Xiang Dai et al.: Revisiting Transformer-based Models for
// Long Document Classification, 2022 (TrLDC); Andrea Burns et al.: A Suite of Generative Tasks for Multi-Level
// Multimodal Webpage Understanding, 2023 (Prefix Global).
#pragma once

#include "../../core/index_list.hpp"
#include "mask.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Shows the pairs of which one token is global, either the first tokens or those at some positions. A call throws
/// argument_error where there are fewer keys, or positions do not ascend.
///
///     softmax_attention(q, k, v, o, window{256, 256} | global_tokens(8));
class global_tokens {
 public:
  using option_kind = option::mask;

  constexpr explicit global_tokens(index_t count) : count_(count) {}
  /// Takes the positions of global keys; queries that stand at such a position are global as well.
  constexpr explicit global_tokens(index_list positions) : positions_(positions), listed_(true) {}

  void check(extend::problem_shape const& shape) const {
    if (!listed_ && (count_ < 0 || count_ > shape.keys))
      extend::fail("global_tokens", "expected 0 to ", shape.keys, " tokens, got ", count_);
    for (index_t i = 0; i < positions_.size(); ++i)
      if (positions_[i] < (i > 0 ? positions_[i - 1] + 1 : 0) || positions_[i] >= shape.keys)
        extend::fail("global_tokens", "expected ascending positions below ", shape.keys, ", got ", positions_[i],
                     " at ", i);
  }
  template <class T>
  extend::key_range bounds(extend::tile_rows<T> const& rows) const {
    if (below(rows.last_position + 1) > below(rows.first_position)) return {0, rows.keys};
    if (!listed_) return {0, std::min(count_, rows.keys)};
    index_t const all = below(rows.keys);
    return all == 0 ? extend::key_range{} : extend::key_range{positions_[0], positions_[all - 1] + 1};
  }
  template <class T>
  extend::key_range next(extend::tile_rows<T> const& rows, index_t from) const {
    extend::key_range const outer = extend::intersection(bounds(rows), {from, rows.keys});
    if (!listed_ || outer.empty() || below(rows.last_position + 1) > below(rows.first_position)) return outer;
    index_t at = below(from);
    extend::key_range run{positions_[at], positions_[at] + 1};
    while (++at < positions_.size() && positions_[at] == run.last) ++run.last;
    return extend::intersection(run, outer);
  }
  template <class T>
  extend::visibility classify(extend::tile_rows<T> const& rows, extend::key_range range) const {
    index_t const keys = below(range.last) - below(range.first);
    index_t const queries = below(rows.last_position + 1) - below(rows.first_position);
    if (keys == range.count() || queries == rows.last_position + 1 - rows.first_position)
      return extend::visibility::all;
    return keys + queries > 0 ? extend::visibility::some : extend::visibility::none;
  }
  template <class T>
  auto bind(extend::tile_rows<T> const& rows, extend::key_range range) const {
    struct bound {
      extend::lane_values<T> query;
      index_t first;
      bool key[extend::max_block_keys];
      auto operator()(extend::mask_place<T> const& place) const {
        return simd::reinterpret_mask<extend::position_t<T>>(
            query.at(place.lane) + simd::vector<T>(T(key[place.key_index - first])) > simd::vector<T>(T(0)));
      }
    };
    bound result{extend::lane_values<T>([&](int lane) { return is_global(rows.position[lane]); }), range.first, {}};
    for (index_t key = range.first; key < range.last; ++key) result.key[key - range.first] = is_global(key);
    return result;
  }

 private:
  /// Global tokens at positions below this one.
  index_t below(index_t position) const {
    if (!listed_) return std::clamp<index_t>(position, 0, count_);
    index_t first = 0, last = positions_.size();
    while (first < last) {
      index_t const middle = first + (last - first) / 2;
      if (positions_[middle] < position)
        first = middle + 1;
      else
        last = middle;
    }
    return first;
  }
  bool is_global(index_t position) const { return below(position + 1) > below(position); }

  index_t count_ = 0;
  index_list positions_;
  bool listed_ = false;
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
