// SPDX-License-Identifier: BSD-3-Clause
// Relative embeddings of a neighborhood: s_ij + scale * sum over axes q_i . r_axis[j - i + W - 1], with a vector for
// each distance on each axis, and the coordinates of i and j counted within their residue class. Where an
// implementation gives each axis a part of the dimension, its tables have zeros in the rest.
//
// The products of a tile's queries with the vectors of the distances that occur are formed by register tiles, some
// dozens for each block of keys; each pair then looks its own up.
//
// Ashish Vaswani, Prajit Ramachandran, Aravind Srinivas, Niki Parmar, Blake Hechtman, Jonathon Shlens: Scaling Local
// Self-Attention for Parameter Efficient Visual Backbones (HaloNet), 2021.
#pragma once

#include "../../core/check.hpp"
#include "../../core/options.hpp"
#include "../../core/scratch.hpp"
#include "../mask/neighborhood.hpp"

namespace attend::inline ATTEND_TARGET {

namespace grids {

/// Adds the product of the query with a learned vector for each distance to the logits of neighborhood_attention: one
/// table [2 W - 1, key dimension] for each axis, with the window W.
///
///     std::array const axes{halo_window(8, 3), halo_window(8, 3)};
///     neighborhood_attention<2>(q, k, v, o, {64, 64}, axes, relative_embeddings(matrix, matrix));
template <class T, int Axes>
struct relative_embeddings {
  using option_kind = option::relative_embeddings;
  std::array<tensor_view<T const, 2>, extend::array_size(Axes)> tables;

  template <TensorArgument... Tables>
    requires(sizeof...(Tables) == Axes)
  explicit relative_embeddings(Tables const&... axis) : tables{tensor_view<T const, 2>(view_of(axis))...} {}
};
template <class First, class... Rest>
relative_embeddings(First const&, Rest const&...)
    -> relative_embeddings<element_of_t<First const>, 1 + sizeof...(Rest)>;

}  // namespace grids

namespace detail {

/// The same as a score over a neighborhood's order.
template <class A, int Axes>
class grid_embedding {
 public:
  using option_kind = option::score;
  static constexpr bool may_hide = true;

  grid_embedding(per_axis<tensor_view<A const, 2>, Axes> const& tables, neighborhood_mask<Axes> const& mask)
      : tables_(tables), mask_(&mask) {}

  void check(problem_shape const& shape) const {
    for (int a = 0; a < Axes; ++a) {
      auto const& table = tables_[mask_->caller_axis(a)];
      check_view("relative_embeddings", table);
      std::array<index_t, 2> const expected{2 * mask_->rule(a).window - 1, shape.key_dimension};
      if (table.extents() != expected)
        fail("relative_embeddings", "expected shape ", shape_text<2>(expected),
             " (2 * window - 1, key dimension) on axis ", mask_->caller_axis(a), ", got ",
             shape_text<2>(table.extents()));
    }
  }

  template <class T>
  class bound {
   public:
    using integer = position_t<T>;
    using vector = simd::vector<integer>;

    bound(grid_embedding const& score, tile_rows<T> const& rows, key_range range) : first_key_(range.first) {
      auto const& order = score.mask_->order();
      order.for_places(range, [&](index_t position, auto const& at) {
        for (int a = 0; a < Axes; ++a) key_[a][position - range.first] = static_cast<integer>(at.at()[a]);
      });
      typename grid_order<Axes>::cursor at(order, rows.query[0]);
      for (int lane = 0; lane < tile_rows<T>::lanes; ++lane) {
        if (lane > 0 && rows.query[lane] != rows.query[lane - 1]) at.advance();
        for (int a = 0; a < Axes; ++a) lane_[a][lane] = static_cast<integer>(at.at()[a]);
      }
      for (int a = 0; a < Axes; ++a) {
        // The distances that occur, and are not beyond any window.
        auto const keys = std::minmax_element(key_[a], key_[a] + range.count());
        auto const lanes = std::minmax_element(lane_[a], lane_[a] + rows.count);
        auto const far = static_cast<integer>(score.mask_->rule(a).window - 1);
        integer const least = std::clamp<integer>(*keys.first - *lanes.second, -far, far);
        integer const most = std::clamp<integer>(*keys.second - *lanes.first, -far, far);
        multiply(score.tables_[score.mask_->caller_axis(a)], least + far, most - least + 1, rows, a);
        auto const used = static_cast<integer>(rows.used);
        for (int lane = 0; lane < tile_rows<T>::lanes; ++lane)
          lane_[a][lane] = -(lane_[a][lane] + least) * used + std::min<integer>(lane, used - 1);
        step_ = used;
        last_[a] = (most - least + 1) * used - 1;
      }
    }

    simd::vector<T> operator()(simd::vector<T> s, score_place<T> const& place) const {
      for (int a = 0; a < Axes; ++a) {
        // Distances of hidden pairs may not occur among the products.
        vector const at = vector(key_[a][place.key_index - first_key_] * step_) + simd::load(lane_[a] + place.lane);
        s = s + simd::vector<T>::gather(products_[a], simd::clamp<integer>(at, vector(integer(0)), vector(last_[a])));
      }
      return s;
    }

   private:
    /// products[distance][lane] = table[first + distance] . packed query, for `count` distances.
    void multiply(tensor_view<A const, 2> const& table, index_t first, index_t count, tile_rows<T> const& rows,
                  int axis) {
      index_t const dimension = table.extent(1), padded = round_up(count, simd::register_rows);
      T* const vectors = memory_.allocate<T>(padded * dimension);
      for (index_t j = 0; j < padded; ++j)
        std::copy_n(table.data() + (first + std::min(j, count - 1)) * table.stride(0), dimension,
                    vectors + j * dimension);
      T* const products = memory_.allocate<T>(padded * rows.used);
      for (index_t j = 0; j < padded; j += simd::register_rows) switch (rows.used / simd::width<T>) {
          case 1:
            multiply_rows<1>(vectors + j * dimension, rows, dimension, products + j * rows.used);
            break;
          case 2:
            multiply_rows<2>(vectors + j * dimension, rows, dimension, products + j * rows.used);
            break;
          default:
            multiply_rows<3>(vectors + j * dimension, rows, dimension, products + j * rows.used);
        }
      products_[axis] = products;
    }
    template <int Vectors>
    static void multiply_rows(T const* vectors, tile_rows<T> const& rows, index_t dimension, T* products) {
      simd::register_tile<T, Vectors> tile;
      tile.clear();
      tile.template multiply_add<false>(vectors, dimension, rows.packed_query, dimension);
      tile.store(products);
    }

    scratch memory_;
    index_t first_key_;
    integer step_, last_[array_size(Axes)];
    integer key_[array_size(Axes)][array_size(max_block_keys)];
    alignas(64) integer lane_[array_size(Axes)][array_size(tile_rows<T>::lanes)];
    T const* products_[array_size(Axes)];
  };

  template <class T>
  bound<T> bind(tile_rows<T> const& rows, key_range range) const {
    return bound<T>(*this, rows, range);
  }

 private:
  per_axis<tensor_view<A const, 2>, Axes> tables_;
  neighborhood_mask<Axes> const* mask_;
};

}  // namespace detail
}  // namespace attend::inline ATTEND_TARGET
