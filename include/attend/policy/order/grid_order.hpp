// SPDX-License-Identifier: BSD-3-Clause
// Tokens of a line, an image or a volume in an order in which a neighborhood is a few long runs.
//
// Tokens come row-major, the last axis fastest. The order takes them
//   1. residue class by residue class: with a dilation of d on an axis, coordinates i = r mod d see only each other,
//      and are a grid of their own, of the coordinates (i - r) / d;
//   2. in a class, column by column: the axes but the long one are cut into blocks, and a column is a block times the
//      whole long axis;
//   3. in a column, along the long axis, and in the block of each of its steps row-major.
// So a box of the grid is one run in each column that it meets, and consecutive queries are a compact box themselves.
//
// Closed-form: there is no table of tokens. A place is found by some divisions, and the next one by counting.
#pragma once

#include <array>

#include "../tile.hpp"

namespace attend::inline ATTEND_TARGET::detail {

/// One of a kind for each axis: an array whose index is an int, as axes are counted.
template <class T, int Axes>
struct per_axis : std::array<T, array_size(Axes)> {
  using array = std::array<T, array_size(Axes)>;

  constexpr per_axis() = default;
  constexpr per_axis(array const& of_axis) : array(of_axis) {}

  constexpr T& operator[](int axis) { return array::operator[](array_size(axis)); }
  constexpr T const& operator[](int axis) const { return array::operator[](array_size(axis)); }
};

/// One axis of a grid, with the long axis as the first.
struct grid_axis {
  index_t extent = 1;    // coordinates
  index_t dilation = 1;  // classes
  index_t block = 1;     // coordinates of a block; on the long axis without meaning
  index_t shift = 0;     // the first block is so much shorter
  index_t token_stride = 1;

  /// Coordinates of class r.
  constexpr index_t length(index_t r) const {
    return dilation == 1 ? extent : extent / dilation + (r < extent % dilation);
  }
  /// Coordinates in classes below r, and the class that holds the n-th coordinate when counted so.
  constexpr index_t below(index_t r) const {
    return r == 0 ? 0 : r * (extent / dilation) + std::min(r, extent % dilation);
  }
  constexpr index_t class_of(index_t n) const {
    index_t const more = extent % dilation, in_more = more * (extent / dilation + 1);
    return n < in_more ? n / (extent / dilation + 1) : more + (n - in_more) / (extent / dilation);
  }
};

template <int Axes>
class grid_order {
 public:
  using coordinates = per_axis<index_t, Axes>;

  /// A column: a class, and a box of its coordinates that is whole on the long axis.
  struct column {
    coordinates residue, length;  // the class, and its extents
    coordinates low, high;        // the box
    index_t class_first, first;   // positions of the class's and of the column's first token
    index_t area = 1;             // tokens of a step along the long axis

    index_t last() const { return first + length[0] * area; }
    bool same_class(column const& other) const { return residue == other.residue; }
  };

  grid_order() = default;
  explicit grid_order(per_axis<grid_axis, Axes> const& axes) : axes_(axes) {}

  per_axis<grid_axis, Axes> const& axes() const { return axes_; }

  column column_of(index_t position) const {
    column c;
    coordinates extent;
    for (int a = 0; a < Axes; ++a) extent[a] = axes_[a].extent;
    coordinates behind = products_behind(extent);
    index_t rest = position, before = 1;
    for (int a = 0; a < Axes; ++a) {
      // Divisions are slow, and most grids have one class.
      index_t const each = before * behind[a];
      c.residue[a] = axes_[a].dilation == 1 ? 0 : axes_[a].class_of(rest / each);
      rest -= axes_[a].below(c.residue[a]) * each;
      c.length[a] = axes_[a].length(c.residue[a]);
      before *= c.length[a];
    }
    c.class_first = position - rest;
    behind = products_behind(c.length);
    before = c.length[0];
    for (int a = 1; a < Axes; ++a) {
      index_t const each = before * behind[a];
      set_block(c, a, (rest / each + axes_[a].shift) / axes_[a].block);
      rest -= c.low[a] * each;
      before *= c.high[a] - c.low[a];
    }
    c.low[0] = 0;
    c.high[0] = c.length[0];
    place(c);
    return c;
  }

  /// The column of a class that holds these coordinates.
  column column_at(column const& of_class, coordinates const& at) const {
    column c = of_class;
    for (int a = 1; a < Axes; ++a) set_block(c, a, (at[a] + axes_[a].shift) / axes_[a].block);
    place(c);
    return c;
  }

  /// Walks from token to token.
  class cursor {
   public:
    cursor(grid_order const& order, index_t position) : order_(order) { enter(position); }

    column const& in() const { return column_; }
    coordinates const& at() const { return at_; }
    index_t token() const {
      index_t token = 0;
      for (int a = 0; a < Axes; ++a)
        token += (column_.residue[a] + at_[a] * order_.axes_[a].dilation) * order_.axes_[a].token_stride;
      return token;
    }
    void advance() {
      for (int a = Axes - 1; a > 0; --a) {
        if (++at_[a] < column_.high[a]) return;
        at_[a] = column_.low[a];
      }
      if (++at_[0] == column_.high[0]) enter(column_.last());
    }

   private:
    void enter(index_t position) {
      column_ = order_.column_of(position);
      index_t rest = position - column_.first;
      for (int a = Axes - 1; a > 0; --a) {
        index_t const side = column_.high[a] - column_.low[a];
        at_[a] = column_.low[a] + rest % side;
        rest /= side;
      }
      at_[0] = rest;
    }

    grid_order const& order_;
    column column_;
    coordinates at_;
  };

  index_t tokens() const {
    index_t count = 1;
    for (grid_axis const& axis : axes_) count *= axis.extent;
    return count;
  }

  /// function(position, cursor) for the positions of a range.
  template <class Function>
  void for_places(key_range range, Function&& function) const {
    if (range.empty()) return;
    cursor at(*this, range.first);
    for (index_t position = range.first;;) {
      function(position, at);
      if (++position == range.last) return;
      at.advance();
    }
  }

  void tokens_at(key_range range, index_t* tokens) const {
    for_places(range, [&](index_t position, cursor const& at) { tokens[position - range.first] = at.token(); });
  }
  /// On a line a whole class is a run; in a grid, a row of a block.
  token_run run_at(index_t position) const {
    cursor const at(*this, position);
    grid_axis const& last = axes_[Axes - 1];
    return {at.token(), last.dilation * last.token_stride, at.in().high[Axes - 1] - at.at()[Axes - 1]};
  }

 private:
  /// Of each axis, the product of what the later ones have.
  static coordinates products_behind(coordinates const& of_axis) {
    coordinates product;
    product[Axes - 1] = 1;
    for (int a = Axes - 1; a > 0; --a) product[a - 1] = product[a] * of_axis[a];
    return product;
  }
  void set_block(column& c, int a, index_t block) const {
    c.low[a] = std::max<index_t>(block * axes_[a].block - axes_[a].shift, 0);
    c.high[a] = std::min((block + 1) * axes_[a].block - axes_[a].shift, c.length[a]);
  }
  /// Where the column begins: behind the columns before it on the first of the cut axes, then on the next.
  static void place(column& c) {
    coordinates const behind = products_behind(c.length);
    index_t before = c.length[0];
    c.first = c.class_first;
    c.area = 1;
    for (int a = 1; a < Axes; ++a) {
      c.first += c.low[a] * before * behind[a];
      before *= c.high[a] - c.low[a];
      c.area *= c.high[a] - c.low[a];
    }
  }

  per_axis<grid_axis, Axes> axes_{};
};

}  // namespace attend::inline ATTEND_TARGET::detail
