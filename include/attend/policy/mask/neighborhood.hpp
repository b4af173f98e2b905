// SPDX-License-Identifier: BSD-3-Clause
// Neighborhoods on a line, an image or a volume: on each axis a query sees a window of coordinates, and a key is seen
// where it is in the window on all axes.
//
// On an axis of length L, with window W, stride s, dilation d (Ali Hassani et al.: Generalized Neighborhood Attention,
// 2025; Faster Neighborhood Attention, 2024; s = 1 is neighborhood attention, s = W blocked attention, W = L dense):
//   - coordinates are split by their residue mod d; the rest holds in each class, for the coordinates (i - r) / d;
//   - queries of a group of s share the window of their leader. Not causal: the leader is floor(i / s) s +
//     floor(s / 2), and the window [leader - floor(W / 2), ... + W), moved back inside at the borders, so that every
//     query sees W keys. Causal: the leader is the group's last, and the query sees [leader - W + 1, i].
//
// Two things more than there: `border::clip` cuts a window off at the borders where it would be moved (padding that is
// masked: Swin, HaloNet), and `shift` lets groups begin so many coordinates earlier (Swin's shifted windows, without
// the wrap).
#pragma once

#include "../order/grid_order.hpp"
#include "mask.hpp"

namespace attend::inline ATTEND_TARGET {

namespace grids {

enum class border { move, clip };

/// Gives window, stride and dilation of one axis, in tokens, and how windows end at the borders.
///
///     neighborhood_axis const axis{.window = 7, .stride = 1, .dilation = 2};
///     neighborhood_attention<2>(q, k, v, o, {56, 56}, {axis, axis});
struct neighborhood_axis {
  index_t window;
  index_t stride = 1;
  index_t dilation = 1;
  bool causal = false;
  border at_border = border::move;
  index_t shift = 0;

  /// Gives what query i of a class of `length` coordinates sees. Both ends ascend with i.
  constexpr extend::key_range keys(index_t i, index_t length) const {
    index_t const group = stride == 1 ? i : (i + shift) / stride * stride - shift;
    if (causal) {
      index_t const leader = std::min(group + stride - 1, length - 1);
      return {std::max<index_t>(leader - window + 1, 0), i + 1};
    }
    index_t const leader = group + stride / 2;
    if (at_border == border::clip)
      return {std::max<index_t>(leader - window / 2, 0), std::min(leader - window / 2 + window, length)};
    index_t const first = std::clamp<index_t>(std::min(leader, length - 1) - window / 2, 0, length - window);
    return {first, first + window};
  }
};

/// Makes windows that stand apart, `shift` tokens further on than in the layer before, both cut off at the borders. Ze
/// Liu et al.: Swin Transformer, 2021. Half of the heads with a shift and half without are StyleSwin's double attention
/// (Bowen Zhang et al., 2022); queries of a decoder and keys of an encoder are Att-SwinU-Net's skip path (Ehsan
/// Khodapanah Aghdam et al., 2022). Throws argument_error for a shift that is no part of a window.
///
///     neighborhood_attention<2>(q, k, v, o, {56, 56}, {swin_window(7, 3), swin_window(7, 3)});
constexpr neighborhood_axis swin_window(index_t window, index_t shift = 0) {
  if (shift < 0 || shift > std::max<index_t>(window, 0))
    extend::fail("swin_window", "expected a shift from 0 to ", window, " (the window), got ", shift);
  return {window, window, 1, false, border::clip, shift > 0 ? window - shift : 0};
}
/// Makes blocks of p tokens next to each other. Zhengzhong Tu et al.: MaxViT, 2022.
///
///     neighborhood_attention<2>(q, k, v, o, {56, 56}, {maxvit_block(7), maxvit_block(7)});
constexpr neighborhood_axis maxvit_block(index_t p) { return {p, p}; }
/// Makes a grid of g tokens that spans the axis, `extent` tokens long. Throws argument_error where g does not divide
/// the extent. Zhengzhong Tu et al.: MaxViT, 2022.
///
///     neighborhood_attention<2>(q, k, v, o, {56, 56}, {maxvit_grid(56, 7), maxvit_grid(56, 7)});
constexpr neighborhood_axis maxvit_grid(index_t extent, index_t g) {
  if (g < 1 || extent < 0 || extent % g != 0)
    extend::fail("maxvit_grid", "expected a grid of at least 1 that divides the extent ", extent, ", got ", g);
  return {g, g, std::max<index_t>(extent / g, 1)};
}
/// Makes blocks of queries that see their block and a halo around it, both in tokens. Ashish Vaswani et al.: Scaling
/// Local Self-Attention for Parameter Efficient Visual Backbones (HaloNet), 2021.
///
///     neighborhood_attention<2>(q, k, v, o, {56, 56}, {halo_window(8, 3), halo_window(8, 3)});
constexpr neighborhood_axis halo_window(index_t block, index_t halo) {
  return {block + 2 * halo, block, 1, false, border::clip};
}
/// Shows all of an axis, `extent` tokens long; beside own_coordinate() it is axial attention. Jonathan Ho et al.: Axial
/// Attention in Multidimensional Transformers, 2019.
///
///     neighborhood_attention<2>(q, k, v, o, {56, 56}, {own_coordinate(), whole_axis(56)});
constexpr neighborhood_axis whole_axis(index_t extent) { return {extent, extent}; }
/// Shows nothing of an axis but the query's own coordinate.
constexpr neighborhood_axis own_coordinate() { return {1}; }

}  // namespace grids

namespace detail {

template <int Axes>
void check_neighborhood(per_axis<index_t, Axes> const& extents, per_axis<neighborhood_axis, Axes> const& axes) {
  for (int a = 0; a < Axes; ++a) {
    auto const& [window, stride, dilation, causal, at_border, shift] = axes[a];
    if (extents[a] < 0) fail("extents", "expected at least 0, got ", extents[a], " on axis ", a);
    if (window < 1) fail("neighborhood", "expected a window of at least 1, got ", window, " on axis ", a);
    if (window >= token_limit)
      fail("neighborhood", "expected a window below ", token_limit, ", got ", window, " on axis ", a);
    if (stride < 1 || stride > window)
      fail("neighborhood", "expected a stride of 1 to ", window, " (the window), got ", stride, " on axis ", a);
    if (dilation < 1) fail("neighborhood", "expected a dilation of at least 1, got ", dilation, " on axis ", a);
    if (shift < 0 || shift >= stride)
      fail("neighborhood", "expected a shift from 0 to ", stride - 1, ", got ", shift, " on axis ", a);
    if (extents[a] == 0) continue;
    if (at_border == border::move && window > extents[a] / dilation)
      fail("neighborhood", "expected a window of at most ", extents[a] / dilation,
           " (the extent over the dilation), got ", window, " on axis ", a);
    if (dilation > extents[a])
      fail("neighborhood", "expected a dilation of at most ", extents[a], " (the extent), got ", dilation, " on axis ",
           a);
  }
}

/// The mask of a neighborhood, and the order of tokens in which it counts positions.
template <int Axes>
class neighborhood_mask {
 public:
  using option_kind = option::mask;
  using order_type = grid_order<Axes>;
  using coordinates = typename order_type::coordinates;
  using column = typename order_type::column;

  neighborhood_mask(per_axis<index_t, Axes> const& extents, per_axis<neighborhood_axis, Axes> const& axes) {
    per_axis<grid_axis, Axes> grid;
    index_t token_stride = 1;
    for (int a = Axes - 1; a >= 0; --a) {
      // Where a window is a single coordinate, the axis is but a batch.
      index_t const dilation = axes[a].window == 1 ? std::max<index_t>(extents[a], 1) : axes[a].dilation;
      grid[a] = {extents[a], dilation, 1, 0, token_stride};
      token_stride *= extents[a];
    }
    rules_ = axes;
    // The long axis is the first on which there is more than one coordinate in a class.
    int long_axis = 0;
    while (long_axis < Axes - 1 && grid[long_axis].length(0) == 1) ++long_axis;
    for (int a = long_axis; a > 0; --a) {
      std::swap(grid[a], grid[a - 1]);
      std::swap(rules_[a], rules_[a - 1]);
    }
    for (int a = 0; a < Axes; ++a) {
      caller_axis_[a] = a == 0 ? long_axis : a <= long_axis ? a - 1 : a;
      if (a == 0) continue;
      grid[a].block = block_of(rules_[a]);
      grid[a].shift = rules_[a].shift % grid[a].block;
    }
    order_ = order_type(grid);
  }

  order_type const& order() const { return order_; }
  /// The caller's number of an axis of the order.
  int caller_axis(int axis) const { return caller_axis_[axis]; }
  neighborhood_axis const& rule(int axis) const { return rules_[axis]; }

  void check(problem_shape const&) const {}

  /// Groups that share a window are cut from each other where they are boxes of equal size in this order.
  tile_grain grain(problem_shape const&) const {
    index_t unit = rules_[0].stride;
    for (int a = 0; a < Axes; ++a) {
      grid_axis const& axis = order_.axes()[a];
      index_t const side = a == 0 ? rules_[0].stride : axis.block;
      if (axis.extent % (axis.dilation * side) != 0 || rules_[a].shift > 0) return {};
      if (a > 0) unit *= side;
    }
    return {rules_[0].stride > 1 && 2 * unit >= simd::tile_lanes<float> ? unit : 0, 0};
  }

  template <class T>
  key_range bounds(tile_rows<T> const& rows) const {
    return {0, rows.keys};
  }
  template <class T>
  key_range next(tile_rows<T> const& rows, index_t from) const {
    key_range run{rows.keys, rows.keys};
    for_boxes(rows, [&](column const& c, coordinates const& low, coordinates const& high) {
      per_axis<key_range, Axes> seen;
      for (int a = 0; a < Axes; ++a)
        seen[a] = {rules_[a].keys(low[a], c.length[a]).first, rules_[a].keys(high[a], c.length[a]).last};
      run = first_run(run_in_box(c, seen, from), run);
    });
    return run;
  }
  template <class T>
  visibility classify(tile_rows<T> const& rows, key_range range) const {
    column const keys = order_.column_of(range.first);
    bool every = range.last <= keys.last();
    index_t const first = (range.first - keys.first) / keys.area, last = (range.last - 1 - keys.first) / keys.area;
    for_boxes(rows, [&](column const& c, coordinates const& low, coordinates const& high) {
      every = every && c.same_class(keys);
      for (int a = 0; every && a < Axes; ++a) {
        key_range const inner{rules_[a].keys(high[a], c.length[a]).first, rules_[a].keys(low[a], c.length[a]).last};
        every = inner.first <= (a == 0 ? first : keys.low[a]) && (a == 0 ? last + 1 : keys.high[a]) <= inner.last;
      }
    });
    return every ? visibility::all : visibility::some;
  }
  template <class T>
  auto bind(tile_rows<T> const& rows, key_range range) const {
    using integer = position_t<T>;
    struct bound {
      index_t first_key;
      integer key[array_size(Axes)][array_size(max_block_keys)];
      alignas(64) integer first[array_size(Axes)][array_size(tile_rows<T>::lanes)],
          last[array_size(Axes)][array_size(tile_rows<T>::lanes)];
      ATTEND_INLINE auto operator()(mask_place<T> const& place) const {
        auto seen = typename simd::integers<T>::truth(true);
        ATTEND_UNROLL for (int a = 0; a < Axes; ++a) {
          simd::integers<T> const at(key[a][place.key_index - first_key]);
          seen = seen & (at >= simd::load(first[a] + place.lane)) & (at < simd::load(last[a] + place.lane));
        }
        return seen;
      }
    };
    bound result;
    result.first_key = range.first;
    order_.for_places(range, [&](index_t position, auto const& at) {
      index_t const offset = class_offset(at.in());
      for (int a = 0; a < Axes; ++a)
        result.key[a][position - range.first] = static_cast<integer>(at.at()[a] + (a == 0 ? offset : 0));
    });
    typename order_type::cursor at(order_, rows.query[0]);
    for (int lane = 0; lane < tile_rows<T>::lanes; ++lane) {
      if (lane > 0 && rows.query[lane] != rows.query[lane - 1]) at.advance();
      index_t const offset = class_offset(at.in());
      for (int a = 0; a < Axes; ++a) {
        key_range const seen = rules_[a].keys(at.at()[a], at.in().length[a]);
        result.first[a][lane] = static_cast<integer>(seen.first + (a == 0 ? offset : 0));
        result.last[a][lane] = static_cast<integer>(seen.last + (a == 0 ? offset : 0));
      }
    }
    return result;
  }

 private:
  /// Query boxes on a cut axis: with 8, a tile of 48 queries is 6 x 8; smaller in a volume. Groups stay whole or are
  /// cut evenly; windows that stand apart are whole, so that their keys are one run, which all of their queries share.
  static index_t block_of(neighborhood_axis const& rule) {
    constexpr index_t usual = Axes == 2 ? 8 : 4;
    index_t const stride = rule.stride;
    if (stride == 1) return usual;
    if (stride == rule.window) return stride;
    for (index_t block = std::min<index_t>(stride, 8); block >= usual / 2; --block)
      if (stride % block == 0) return block;
    return usual;
  }

  /// Keeps classes apart on the first axis.
  index_t class_offset(column const& c) const {
    index_t number = 0;
    for (int a = 0; a < Axes; ++a) number = number * order_.axes()[a].dilation + c.residue[a];
    return number * order_.axes()[0].length(0);
  }

  /// function(column, low, high) for boxes of coordinates that hold the tile's queries, `high` included.
  template <class T, class Function>
  void for_boxes(tile_rows<T> const& rows, Function&& function) const {
    for (index_t at = rows.first_query(); at <= rows.last_query();) {
      column const c = order_.column_of(at);
      index_t const end = std::min(rows.last_query() + 1, c.last());
      coordinates low = c.low, high = c.high;
      low[0] = (at - c.first) / c.area;
      high[0] = (end - 1 - c.first) / c.area + 1;
      for (index_t& last : high) --last;
      function(c, low, high);
      at = end;
    }
  }

  /// The first run at or after `from` of the keys of a class in a box.
  key_range run_in_box(column const& of_class, per_axis<key_range, Axes> const& box, index_t from) const {
    coordinates at;
    for (int a = 0; a < Axes; ++a) at[a] = box[a].first;
    for (;;) {
      column const c = order_.column_at(of_class, at);
      key_range const run{std::max(from, c.first + box[0].first * c.area), c.first + box[0].last * c.area};
      if (!run.empty()) return run;
      // On to the next column, the last axis fastest.
      int a = Axes - 1;
      for (; a > 0; --a) {
        at[a] = c.high[a];
        if (at[a] < box[a].last) break;
        at[a] = box[a].first;
      }
      if (a == 0) return {};
    }
  }

  order_type order_;
  per_axis<neighborhood_axis, Axes> rules_{};
  per_axis<int, Axes> caller_axis_{};
};

}  // namespace detail

}  // namespace attend::inline ATTEND_TARGET
