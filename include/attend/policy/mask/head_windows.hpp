// SPDX-License-Identifier: BSD-3-Clause
// Windows of each head's own: head h sees key j where p - left[h] <= j <= p + right[h], with p the query's position.
// Tiles hold rows of heads with one window, so that a narrow head costs what it shows.
//
//   head_windows{left}                      causal: left[h] earlier keys and the own one
//   multi_scale_windows(base, layer, ...)   windows that double from one quarter of the layers to the next, and from
//                                           one quarter of a layer's heads to the next: base * 1/16 ... 4. Yixing Xu,
//                                           Shivank Nag, Dong Li, Lu Tian, Emad Barsoum: MSWA: Refining Local Attention
//                                           with Multi-Scale Window Attention, 2025
//   elastic_windows(offset, slope, keys)    spans offset[h] + slope[h] * keys. Tianyu Fu et al.: MoA: Mixture of Sparse
//                                           Attention for Automatic Large Language Model Compression, 2024; its sink
//                                           block is `(head_windows{left} | keys_in(0, 64)) & causal{}`
#pragma once

#include <vector>

#include "../../core/check.hpp"
#include "../../core/index_list.hpp"
#include "interval_mask.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Shows each head a window of its own, in tokens. A call throws argument_error where the lists do not have one number
/// for each query head.
///
///     auto const windows = multi_scale_windows(1024, 0, 24, 16);  // base, layer, layers, heads
///     softmax_attention(q, k, v, o, head_windows{windows});
class head_windows : public extend::interval_mask<head_windows> {
 public:
  /// Takes one number for each query head; -1 leaves a side open.
  explicit head_windows(index_list left) : head_windows(left, index_list{}) {}
  head_windows(index_list left, index_list right) : left_(left), right_(right), alike_(left.size()) {
    for (index_t h = 1; h < left.size(); ++h)
      if (left[h] != left[h - 1] || (h < right.size() && right[h] != right[h - 1])) alike_ = std::gcd(alike_, h);
  }

  void check(extend::problem_shape const& shape) const {
    check_side("left", left_, shape);
    if (right_.size() > 0) check_side("right", right_, shape);
  }
  extend::tile_grain grain(extend::problem_shape const&) const { return {0, alike_}; }
  template <class T>
  extend::key_range interval(extend::tile_rows<T> const& rows, int lane) const {
    index_t const head = rows.head[lane], position = rows.position[lane];
    index_t const right = right_.size() > 0 ? detail::reach_of(right_[head]) : 0;
    return {position - detail::reach_of(left_[head]), position + right + 1};
  }

 private:
  static void check_side(char const* side, index_list const& list, extend::problem_shape const& shape) {
    if (list.size() != shape.query_heads)
      extend::fail("head_windows", "expected ", side, " for ", shape.query_heads, " heads, got ", list.size());
    for (index_t h = 0; h < list.size(); ++h)
      if (list[h] < -1)
        extend::fail("head_windows", "expected ", side, " of at least -1, got ", list[h], " for head ", h);
  }

  index_list left_, right_;
  index_t alike_;  // heads that follow each other with the same window
};

}  // namespace options

namespace systems {

/// Gives what each head of a layer sees before its own token under multi-scale windows: a head of scale 1 in a layer of
/// scale 1 sees `base` keys, itself included. Layers and heads are counted from 0, in four groups of scales 1/4, 1/2, 1
/// and 2 each. Throws argument_error where the base is less than 1 or there is no such layer.
///
///     auto const windows = multi_scale_windows(1024, 0, 24, 16);  // base, layer, layers, heads
inline std::vector<index_t> multi_scale_windows(index_t base, index_t layer, index_t layers, index_t heads) {
  if (base < 1) extend::fail("multi_scale_windows", "expected a window of at least 1, got ", base);
  if (layer < 0 || layer >= layers)
    extend::fail("multi_scale_windows", "expected a layer from 0 to ", layers - 1, ", got ", layer);
  detail::check_heads(heads);
  std::vector<index_t> left;
  for (index_t h = 0; h < heads; ++h) {
    index_t const doublings = layer * 4 / layers + h * 4 / heads;  // from a sixteenth
    left.push_back(std::max<index_t>((base << doublings) / 16, 1) - 1);
  }
  return left;
}

/// Gives what each head sees before its own token under elastic spans: offset[h] + slope[h] * keys tokens, itself
/// included, and at least 1. Throws argument_error where the lists differ in length.
///
///     auto const windows = elastic_windows(numbers, numbers, 131072);  // offsets, slopes, keys
///     softmax_attention(q, k, v, o, (head_windows{windows} | keys_in(0, 64)) & causal{});
template <class Offsets, class Slopes>
std::vector<index_t> elastic_windows(Offsets const& offset, Slopes const& slope, index_t keys) {
  extend::arithmetic_mode const arithmetic;
  if (offset.size() != slope.size())
    extend::fail("elastic_windows", "expected ", offset.size(), " slopes (as offsets), got ", slope.size());
  std::vector<index_t> left;
  for (std::size_t h = 0; h < offset.size(); ++h) {
    double const span = static_cast<double>(offset[h]) + static_cast<double>(slope[h]) * static_cast<double>(keys);
    left.push_back(static_cast<index_t>(std::clamp(span, 1., static_cast<double>(extend::token_limit))) - 1);
  }
  return left;
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
