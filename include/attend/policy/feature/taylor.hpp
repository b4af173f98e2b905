// SPDX-License-Identifier: BSD-3-Clause
// Features whose products are a Taylor polynomial of the exponential: with z = s^2 x . y,
//
//   order 1            phi(x) = [1, s x]                              phi(x) . phi(y) = 1 + z
//   order 2, full      phi(x) = [1, s x, s^2 x_a x_b / sqrt(2)]       for all a, b:      1 + z + z^2 / 2
//   order 2, packed    the same with a <= b, times sqrt(2) where a < b                   1 + z + z^2 / 2
//
// s^2 is 1 / sqrt(dimension) unless given. A row of d numbers has 1 + d, 1 + d + d^2, or 1 + d + d (d + 1) / 2
// features. The polynomial of order 2 is at least 1/2: a sum of keys of weight 1 is never 0. That of order 1 has no
// such bound.
//
// Within a chunk the products are computed as the polynomial of x . y, which costs d where the features would cost all
// of theirs.
//
// Simran Arora et al.: Simple linear attention language models balance the recall-throughput tradeoff, 2024; Michael
// Zhang et al.: The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry, 2024 (the full map).
#pragma once

#include <cmath>
#include <optional>

#include "../../core/scratch.hpp"
#include "../../simd/dot.hpp"
#include "../score/scale.hpp"
#include "feature.hpp"

namespace attend::inline ATTEND_TARGET {

namespace linear {

enum class taylor_form { order_1, full, packed };

/// Maps queries and keys to features whose products are a Taylor polynomial of the exponential.
///
///     linear_attention(q, k, v, o, causal{}, taylor_features{}, key_sum{});
class taylor_features {
 public:
  using option_kind = option::features;

  /// `scale` is s^2, by which x . y is multiplied; it is 1/sqrt(dimension) unless given.
  constexpr explicit taylor_features(taylor_form form = taylor_form::packed, std::optional<double> scale = {})
      : form_(form), scale_(scale) {}

  index_t features(index_t dimension) const {
    switch (form_) {
      case taylor_form::order_1:
        return 1 + dimension;
      case taylor_form::full:
        return 1 + dimension + dimension * dimension;
      default:
        return 1 + dimension + dimension * (dimension + 1) / 2;
    }
  }
  void check(extend::state_shape const& shape) const {
    if (scale_ && !(*scale_ >= 0 && std::isfinite(*scale_)))
      extend::fail("taylor_features", "expected a finite scale of at least 0, got ", *scale_);
    if (shape.key_dimension > max_dimension)
      extend::fail("taylor_features", "expected a head dimension of at most ", max_dimension, ", got ",
                   shape.key_dimension);
  }

  template <class A>
  void prepare(extend::token_rows<A> const& rows, A* to, index_t stride) const {
    extend::fill_features(identity_features{}, rows, to, stride);
  }
  template <class A>
  simd::vector<A> kernel(simd::vector<A> const& product, index_t dimension) const {
    simd::vector<A> const one(A(1)), z = product * simd::vector<A>(static_cast<A>(square_of(dimension)));
    if (form_ == taylor_form::order_1) return one + z;
    return simd::fused_multiply_add(z, simd::fused_multiply_add(z, simd::vector<A>(A(0.5)), one), one);
  }
  template <class A>
  void fill_prepared(extend::token_rows<A> const& rows, A* to, index_t stride) const {
    fill(rows, to, stride);
  }
  template <class A>
  void fill(extend::token_rows<A> const& rows, A* to, index_t stride) const {
    constexpr index_t step = simd::width<A>;
    index_t const d = rows.dimension, count = features(d);
    double const square = square_of(d);
    A const scale = static_cast<A>(std::sqrt(square));
    A const halved = static_cast<A>(square * std::sqrt(0.5)), whole = static_cast<A>(square);
    extend::scratch memory;
    // With zeros for one vector more, any part of the row can be read as whole vectors.
    A* const x = memory.allocate<A>(extend::round_up(d, step) + step);
    std::fill(x + d, x + extend::round_up(d, step) + step, A(0));
    for (index_t i = 0; i < rows.count; ++i) {
      std::copy_n(rows.row(i), d, x);
      A* next = to + i * stride;
      A* const end = next + count;
      *next++ = 1;
      next = append(x, scale, d, next, end);
      for (index_t a = 0; a < d && form_ == taylor_form::full; ++a) next = append(x, halved * x[a], d, next, end);
      for (index_t a = 0; a < d && form_ == taylor_form::packed; ++a) {
        A* const after = append(x + a, whole * x[a], d - a, next, end);
        *next = halved * x[a] * x[a];
        next = after;
      }
    }
  }
  /// A product of two elements gives to both.
  template <class A>
  void pull(extend::token_rows<A> const& rows, A const* of_features, index_t stride, A* to, index_t to_stride) const {
    using V = simd::vector<A>;
    index_t const d = rows.dimension;
    double const square = square_of(d);
    V const scale(static_cast<A>(std::sqrt(square)));
    A const halved = static_cast<A>(square * std::sqrt(0.5)), whole = static_cast<A>(square);
    for (index_t i = 0; i < rows.count; ++i) {
      A const* const x = rows.row(i);
      A const* given = of_features + i * stride + 1;
      A* const row = to + i * to_stride;
      simd::transform_row(row, d, [&](V const& g) { return g * scale; }, given);
      given += d;
      // Feature (a, b) is factor x_a x_b, for b from `first` on.
      auto const add = [&](index_t a, index_t first, A factor) {
        V const times(factor * x[a]);
        simd::transform_row(
            row + first, d - first, [&](V const& so_far, V const& g) { return so_far + times * g; }, row + first,
            given);
        row[a] += factor * simd::dot<A>(given, x + first, d - first);
        given += d - first;
      };
      for (index_t a = 0; a < d && form_ == taylor_form::full; ++a) add(a, 0, halved);
      for (index_t a = 0; a < d && form_ == taylor_form::packed; ++a) {
        row[a] += 2 * halved * x[a] * *given++;
        add(a, a + 1, whole);
      }
    }
  }

 private:
  static constexpr index_t max_dimension = 1024;

  double square_of(index_t dimension) const { return scale_ ? *scale_ : detail::usual_scale(dimension); }

  /// next[b] = factor * x[b] for b < count; returns what follows them. Whole vectors are written while the row has
  /// room: what they write past `count` is written again by the next call.
  template <class A>
  static A* append(A const* x, A factor, index_t count, A* next, A* end) {
    constexpr index_t step = simd::width<A>;
    simd::vector<A> const times(factor);
    index_t b = 0;
    for (; b < count && next + b + step <= end; b += step) (simd::widen(x + b) * times).store_unaligned(next + b);
    for (; b < count; ++b) next[b] = factor * x[b];
    return next + count;
  }

  taylor_form form_;
  std::optional<double> scale_;
};

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
