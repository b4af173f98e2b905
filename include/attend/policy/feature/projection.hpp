// SPDX-License-Identifier: BSD-3-Clause
// Rows times a matrix of each head, y = W x + b: the linear part of learned and of random feature maps.
//
//   W [head, feature, dimension]   b [head, feature], optional; one head serves all
//
// The matrices are copied, transposed and padded, when the projection is made, so that a call reads them as register
// tiles do: rows of tokens against whole vectors of features.
#pragma once

#include <memory>
#include <vector>

#include "../../core/check.hpp"
#include "../../core/scratch.hpp"
#include "../../simd/register_tile.hpp"
#include "feature.hpp"

namespace attend::inline ATTEND_TARGET::detail {

template <class A>
class feature_projection {
 public:
  feature_projection() = default;

  template <class W, class B>
  feature_projection(char const* argument, tensor_view<W const, 3> const& weights, tensor_view<B const, 2> const& bias)
      : heads_(weights.extent(0)), features_(weights.extent(1)), dimension_(weights.extent(2)) {
    arithmetic_mode const arithmetic;
    check_view(argument, weights);
    if (bias.data()) {
      check_view(argument, bias);
      if (bias.extents() != std::array<index_t, 2>{heads_, features_})
        fail(argument, "expected a bias of shape ", shape_text<2>({heads_, features_}), " (head, feature), got ",
             shape_text<2>(bias.extents()));
    }
    padded_ = round_up(features_, simd::width<A>);
    index_t const count = heads_ * (dimension_ + 1) * padded_;
    packed_ = std::shared_ptr<A[]>(
        static_cast<A*>(::operator new[](static_cast<std::size_t>(count) * sizeof(A), std::align_val_t{cache_line})),
        [](A* memory) { ::operator delete[](memory, std::align_val_t{cache_line}); });
    std::fill_n(packed_.get(), count, A(0));
    for (index_t h = 0; h < heads_; ++h)
      for (index_t f = 0; f < features_; ++f) {
        for (index_t c = 0; c < dimension_; ++c) matrix(h)[c * padded_ + f] = static_cast<A>(weights(h, f, c));
        if (bias.data()) matrix(h)[dimension_ * padded_ + f] = static_cast<A>(bias(h, f));
      }
  }

  index_t features() const { return features_; }
  explicit operator bool() const { return packed_ != nullptr; }

  void check(char const* argument, index_t heads, index_t dimension) const {
    if (heads_ != 1 && heads_ != heads)
      fail(argument, "expected weights of ", one_or(heads, "head", "heads"), ", got ", heads_);
    if (dimension_ != dimension) fail(argument, "expected weights of dimension ", dimension, ", got ", dimension_);
  }

  /// to[i * stride + f] = W_f . row i + b_f; what is past the features, in their last vector, becomes 0.
  void fill(token_rows<A> const& rows, A* to, index_t stride) const {
    A const* const weights = matrix(heads_ == 1 ? 0 : rows.head);
    A const* const bias = weights + dimension_ * padded_;
    int const vectors = static_cast<int>(padded_ / simd::width<A>);
    index_t i = 0;
    for (; i + simd::register_rows <= rows.count; i += simd::register_rows)
      simd::for_tile_widths(vectors, [&]<int Vectors>(int first) {
        multiply<Vectors>(rows.row(i), rows.stride, weights, bias, first * simd::width<A>, to + i * stride, stride);
      });
    for (; i < rows.count; ++i) multiply_row(rows.row(i), weights, bias, to + i * stride);
  }

 private:
  A* matrix(index_t head) const { return packed_.get() + head * (dimension_ + 1) * padded_; }

  template <int Vectors>
  [[gnu::noinline]] void multiply(A const* rows, index_t row_stride, A const* weights, A const* bias, index_t column,
                                  A* to, index_t stride) const {
    simd::register_tile<A, Vectors> tile;
    ATTEND_UNROLL for (int i = 0; i < simd::register_rows; ++i) {
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) tile.sum[i][v] = simd::load(bias + column + v * simd::width<A>);
    }
    tile.template multiply_add<false>(rows, row_stride, weights + column, dimension_, padded_);
    tile.store(to + column, stride);
  }

  /// One row alone, four vectors of features at a time.
  void multiply_row(A const* row, A const* weights, A const* bias, A* to) const {
    constexpr index_t step = simd::width<A>;
    index_t f = 0;
    for (; f + 4 * step <= padded_; f += 4 * step) multiply_row<4>(row, weights + f, bias + f, to + f);
    for (; f < padded_; f += step) multiply_row<1>(row, weights + f, bias + f, to + f);
  }
  template <int Vectors>
  void multiply_row(A const* row, A const* weights, A const* bias, A* to) const {
    simd::vector<A> sum[array_size(Vectors)];
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) sum[v] = simd::load(bias + v * simd::width<A>);
    for (index_t c = 0; c < dimension_; ++c, weights += padded_) {
      simd::vector<A> const x(row[c]);
      ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) sum[v] =
          simd::fused_multiply_add(x, simd::load(weights + v * simd::width<A>), sum[v]);
    }
    ATTEND_UNROLL for (int v = 0; v < Vectors; ++v) simd::store(to + v * simd::width<A>, sum[v]);
  }

  index_t heads_ = 0, features_ = 0, dimension_ = 0, padded_ = 0;
  std::shared_ptr<A[]> packed_;
};

}  // namespace attend::inline ATTEND_TARGET::detail
