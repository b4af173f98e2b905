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
// Simran Arora et al.: Simple linear attention language models balance the recall-throughput tradeoff, 2024; Michael
// Zhang et al.: The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry, 2024 (the full map).
#pragma once

#include <cmath>
#include <optional>

#include "feature.hpp"

namespace attend {

enum class taylor_form { order_1, full, packed };

class taylor_features {
 public:
  using option_kind = option::features;

  /// `scale` is what x . y is multiplied by: s^2.
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
  void check(state_shape const& shape) const {
    if (scale_ && !(*scale_ >= 0 && std::isfinite(*scale_)))
      fail("taylor_features", "expected a finite scale of at least 0, got ", *scale_);
    if (shape.key_dimension > most_dimension)
      fail("taylor_features", "expected a head dimension of at most ", most_dimension, ", got ", shape.key_dimension);
  }
  template <class A>
  void fill(token_rows<A> const& rows, A* to, index_t stride) const {
    index_t const d = rows.dimension;
    double const square = scale_ ? *scale_ : d > 0 ? 1 / std::sqrt(static_cast<double>(d)) : 1.0;
    A const scale = static_cast<A>(std::sqrt(square));
    A const half = static_cast<A>(square * std::sqrt(0.5)), whole = static_cast<A>(square);
    for (index_t i = 0; i < rows.count; ++i) {
      A const* const x = rows.row(i);
      A* const end = to + i * stride + features(d);
      A* next = to + i * stride;
      *next++ = 1;
      next = append(x, scale, d, next, end);
      for (index_t a = 0; a < d && form_ == taylor_form::full; ++a) next = append(x, half * x[a], d, next, end);
      for (index_t a = 0; a < d && form_ == taylor_form::packed; ++a) {
        append(x + a, whole * x[a], d - a, next, end);
        *next = half * x[a] * x[a];
        next += d - a;
      }
    }
  }

 private:
  static constexpr index_t most_dimension = 1024;

  /// next[b] = factor * x[b] for b < count; returns what follows them. Whole vectors are written where the row has
  /// room: what is past `count` is written again by the next call.
  template <class A>
  static A* append(A const* x, A factor, index_t count, A* next, A* end) {
    constexpr index_t step = simd::width<A>;
    simd::vector<A> const times(factor);
    for (index_t b = 0; b < count; b += step) {
      index_t const left = count - b;
      simd::vector<A> const product = (left >= step ? simd::widen(x + b) : simd::widen_part(x + b, left)) * times;
      if (next + b + step <= end)
        product.store_unaligned(next + b);
      else
        simd::narrow_part<A>(next + b, product, std::min(left, step));
    }
    return next + count;
  }

  taylor_form form_;
  std::optional<double> scale_;
};

}  // namespace attend
