// SPDX-License-Identifier: BSD-3-Clause
// Learned biases of a neighborhood by relative place: s_ij + table[head][j - i + W - 1 on each axis], with the
// coordinates of i and j counted within their residue class and W the window.
//
// Ze Liu et al.: Swin Transformer, 2021 ((2W - 1)^2 numbers for each head); Ali Hassani et al.: Neighborhood Attention
// Transformer, 2023.
#pragma once

#include "../../core/check.hpp"
#include "../../core/options.hpp"
#include "../mask/neighborhood.hpp"

namespace attend::inline ATTEND_TARGET {

namespace grids {

/// Adds a learned number for each relative place to the logits of neighborhood_attention. The table is [query head or
/// 1, 2 W - 1 for each axis] with the window W; a leading axis of 1 may be left out.
///
///     neighborhood_attention<2>(q, k, v, o, {56, 56}, {swin_window(7), swin_window(7)}, relative_bias(head_matrices));
template <class T, int Rank>
struct relative_bias {
  using option_kind = option::relative_bias;
  tensor_view<T const, Rank> table;

  template <TensorArgument Tensor>
  explicit relative_bias(Tensor const& tensor) : table(view_of(tensor)) {}
};
template <class Tensor>
relative_bias(Tensor const&) -> relative_bias<element_of_t<Tensor const>, rank_of<Tensor const>>;

/// Writes the gradient of the relative_bias of neighborhood_attention_backward to a tensor of the table's shape.
///
///     neighborhood_attention_backward<2>(q, k, v, o, lse, of_o, of_q, of_k, of_v, {56, 56},
///                                        {swin_window(7), swin_window(7)}, relative_bias(head_matrices),
///                                        gradient_of_relative_bias(of_matrices));
template <class T, int Rank>
struct gradient_of_relative_bias {
  using option_kind = option::gradient_of_relative_bias;
  tensor_view<T, Rank> table;

  template <TensorArgument Tensor>
  explicit gradient_of_relative_bias(Tensor&& tensor) : table(view_of(tensor)) {}
};
template <class Tensor>
gradient_of_relative_bias(Tensor&&) -> gradient_of_relative_bias<element_of_t<Tensor>, rank_of<Tensor>>;

}  // namespace grids

namespace detail {

/// The same as a score over a neighborhood's order.
template <class A, int Axes>
class grid_bias {
 public:
  using option_kind = option::score;
  static constexpr bool may_hide = true, keeps_slope = true;

  grid_bias(tensor_view<A const, Axes + 1> const& table, neighborhood_mask<Axes> const& mask)
      : table_(table), mask_(&mask) {}

  void check(problem_shape const& shape) const {
    check_view("relative_bias", table_);
    per_axis<index_t, Axes + 1> expected;
    expected[0] = shape.query_heads;
    bool fits = table_.extent(0) == 1 || table_.extent(0) == shape.query_heads;
    for (int a = 0; a < Axes; ++a) {
      int const axis = mask_->caller_axis(a) + 1;
      expected[axis] = 2 * mask_->rule(a).window - 1;
      fits = fits && table_.extent(axis) == expected[axis];
    }
    if (!fits)
      fail("relative_bias", "expected shape ", shape_text<Axes + 1>(expected),
           " (query head or 1, 2 * window - 1), got ", shape_text<Axes + 1>(table_.extents()));
    // Lanes hold places in the table as 32-bit integers.
    element_span const span = span_of(table_);
    index_t const limit = std::numeric_limits<std::int32_t>::max();
    if (span.first < -limit || span.last > limit)
      fail("relative_bias", "expected strides that stay within ", limit, " elements, got ",
           list_text(table_.strides()));
  }
  template <class T>
  auto bind(tile_rows<T> const& rows, key_range range) const {
    using integer = position_t<T>;
    struct bound {
      T const* table;
      integer least, most;
      index_t first_key;
      integer key[max_block_keys];
      alignas(64) integer query[tile_rows<T>::lanes];
      /// Where in the table the numbers of a vector of lanes stand.
      simd::vector<integer> places(index_t key_index, int lane) const {
        using vector = simd::vector<integer>;
        // Places of hidden pairs may lie outside of the table.
        return simd::clamp<integer>(vector(key[key_index - first_key]) - simd::load(query + lane), vector(least),
                                    vector(most));
      }
      simd::vector<T> operator()(simd::vector<T> const& s, score_place<T> const& place) const {
        return s + simd::vector<T>::gather(table, places(place.key_index, place.lane));
      }
    };
    bound result;
    result.table = table_.data();
    element_span const span = span_of(table_);
    result.least = static_cast<integer>(span.first);
    result.most = static_cast<integer>(span.last - 1);
    result.first_key = range.first;
    auto const code = [&](auto const& at) {
      index_t sum = 0;
      for (int a = 0; a < Axes; ++a) sum += at.at()[a] * table_.stride(mask_->caller_axis(a) + 1);
      return sum;
    };
    index_t centre = 0;
    for (int a = 0; a < Axes; ++a) centre += (mask_->rule(a).window - 1) * table_.stride(mask_->caller_axis(a) + 1);
    mask_->order().for_places(range, [&](index_t position, auto const& at) {
      result.key[position - range.first] = static_cast<integer>(code(at));
    });
    typename grid_order<Axes>::cursor at(mask_->order(), rows.query[0]);
    for (int lane = 0; lane < tile_rows<T>::lanes; ++lane) {
      if (lane > 0 && rows.query[lane] != rows.query[lane - 1]) at.advance();
      index_t const head = table_.extent(0) == 1 ? 0 : rows.head[lane] * table_.stride(0);
      result.query[lane] = static_cast<integer>(code(at) - centre - head);
    }
    return result;
  }

 private:
  tensor_view<A const, Axes + 1> table_;
  neighborhood_mask<Axes> const* mask_;
};

/// The same where the table has a gradient: what pairs give is added up in tables of their own, [query head, 2 W - 1
/// for each axis] without gaps.
template <class A, int Axes>
class grid_bias_with_gradient : public grid_bias<A, Axes> {
 public:
  using gradient_kind = option::gradient_of_relative_bias;

  grid_bias_with_gradient(tensor_view<A const, Axes + 1> const& table, neighborhood_mask<Axes> const& mask,
                          index_t query_heads)
      : grid_bias<A, Axes>(table, mask), places_(table_of_heads(table, query_heads), mask) {}

  /// Adds changes of logits, [key][lanes], to a table.
  void add_changes(tile_rows<A> const& rows, key_range range, A const* changes, int lanes, A* table) const {
    using integer = position_t<A>;
    auto const bound = places_.bind(rows, range);
    for (index_t key = range.first; key < range.last; ++key, changes += lanes)
      for (int lane = 0; lane < rows.count; lane += simd::width<A>) {
        alignas(64) integer place[array_size(simd::width<A>)];
        simd::store(place, bound.places(key, lane));
        for (int i = 0; i < std::min(simd::width<A>, rows.count - lane); ++i)
          if (A const change = changes[lane + i]; change != 0) table[place[i]] += change;
      }
  }

 private:
  static tensor_view<A const, Axes + 1> table_of_heads(tensor_view<A const, Axes + 1> const& table, index_t heads) {
    auto extents = table.extents();
    extents[0] = heads;
    return {nullptr, extents};
  }

  grid_bias<A, Axes> places_;
};

}  // namespace detail
}  // namespace attend::inline ATTEND_TARGET
