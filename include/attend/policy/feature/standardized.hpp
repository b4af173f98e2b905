// SPDX-License-Identifier: BSD-3-Clause
// A feature map of rows that have mean 0 and variance 1:   phi(x) = map((x - mean(x)) / deviation(x))
//
// mean and deviation are those of the row's d numbers, sqrt(mean_c((x_c - mean)^2)); a row of equal numbers becomes
// zeros. The result does not depend on the row's magnitude, which may be anything: rows are first multiplied by a power
// of two.
//
// With the Taylor map and scale 1 these are the weights of Fastmax: Armin Gerami, Monte Hoover, Pranav Dulepet, Ramani
// Duraiswami: FAST: Factorizable Attention for Speeding up Transformers, 2024.
#pragma once

#include <cmath>

#include "../../core/scratch.hpp"
#include "../../simd/dot.hpp"
#include "feature.hpp"

namespace attend::inline ATTEND_TARGET {

namespace linear {

/// Maps rows by another map, once they have mean 0 and variance 1.
///
///     linear_attention(q, k, v, o, causal{}, standardized(taylor_features{}), key_sum{});
template <FeatureMap Map>
class standardized {
 public:
  using option_kind = option::features;

  constexpr explicit standardized(Map map) : map_(std::move(map)) {}

  index_t features(index_t dimension) const { return map_.features(dimension); }
  void check(extend::state_shape const& shape) const { map_.check(shape); }
  template <class A>
  void prepare(extend::token_rows<A> const& rows, A* to, index_t stride) const {
    constexpr index_t step = simd::width<A>;
    index_t const d = rows.dimension, padded = extend::round_up(d, step);
    if (d == 0) return;
    for (index_t i = 0; i < rows.count; ++i) {
      A* const row = to + i * stride;
      std::copy_n(rows.row(i), d, row);
      std::fill(row + d, row + padded, row[0]);
      // The mean of equal numbers, rounded, may differ from them: it would leave a row of ones.
      if (are_equal(row, padded)) {
        std::fill_n(row, padded, A(0));
        continue;
      }
      multiply(row, padded, near_one_over(largest_magnitude(row, padded)));
      // The second mean is what the rounding of the first one left.
      for (int pass = 0; pass < 2; ++pass) {
        std::fill(row + d, row + padded, A(0));
        simd::vector<A> const mean(sum(row, padded, [](auto const& x) { return x; }) / static_cast<A>(d));
        for (index_t c = 0; c < padded; c += step) simd::store(row + c, simd::load(row + c) - mean);
      }
      std::fill(row + d, row + padded, A(0));
      A const variance = sum(row, padded, [](auto const& x) { return x * x; }) / static_cast<A>(d);
      multiply(row, padded, 1 / std::sqrt(variance));
    }
  }
  template <class A>
  void fill_prepared(extend::token_rows<A> const& rows, A* to, index_t stride) const {
    extend::fill_features(map_, rows, to, stride);
  }
  template <class A>
  auto kernel(simd::vector<A> const& product, index_t dimension) const
    requires KernelFeatures<Map>
  {
    return map_.kernel(product, dimension);
  }
  template <class A>
  void fill(extend::token_rows<A> const& rows, A* to, index_t stride) const {
    index_t const padded = extend::round_up(rows.dimension, simd::width<A>);
    extend::scratch memory;
    A* const standard = memory.allocate<A>(rows.count * padded);
    prepare(rows, standard, padded);
    extend::token_rows<A> standard_rows = rows;
    standard_rows.data = standard;
    standard_rows.stride = padded;
    fill_prepared(standard_rows, to, stride);
  }
  /// With y = (x - mean) / deviation: dx = (dy - mean(dy) - y mean(y dy)) / deviation; rows of equal numbers have none.
  template <class A>
    requires extend::HasPull<Map, A>
  void pull(extend::token_rows<A> const& rows, A const* of_features, index_t stride, A* to, index_t to_stride) const {
    using V = simd::vector<A>;
    index_t const d = rows.dimension, padded = extend::round_up(d, simd::width<A>);
    if (d == 0) return;
    extend::scratch memory;
    A* const standard = memory.allocate<A>(rows.count * padded);
    prepare(rows, standard, padded);
    extend::token_rows<A> standard_rows = rows;
    standard_rows.data = standard;
    standard_rows.stride = padded;
    extend::pull_features(map_, standard_rows, of_features, stride, to, to_stride);
    double const count = static_cast<double>(d);
    for (index_t i = 0; i < rows.count; ++i) {
      A const *const y = standard + i * padded, *const x = rows.row(i);
      A* const row = to + i * to_stride;
      double total = 0, squares = 0, sum = 0;
      for (index_t c = 0; c < d; ++c) total += static_cast<double>(x[c]);
      for (index_t c = 0; c < d; ++c) {
        double const apart = static_cast<double>(x[c]) - total / count;
        squares += apart * apart;
        sum += static_cast<double>(row[c]);
      }
      A const along = simd::dot<A>(row, y, d) / static_cast<A>(d);
      bool const equal = y[0] == 0 && simd::dot<A>(y, y, d) == 0;
      V const mean(static_cast<A>(sum / count)), part(along),
          factor(equal ? A(0) : static_cast<A>(1 / std::sqrt(squares / count)));
      simd::transform_row(
          row, d, [&](V const& g, V const& standardized_x) { return (g - mean - standardized_x * part) * factor; }, row,
          y);
    }
  }
  Map const& map() const { return map_; }

 private:
  template <class A>
  static bool are_equal(A const* row, index_t count) {
    simd::vector<A> const first(row[0]);
    for (index_t c = 0; c < count; c += simd::width<A>)
      if (!simd::all(simd::load(row + c) == first)) return false;
    return true;
  }
  template <class A>
  static A largest_magnitude(A const* row, index_t count) {
    alignas(64) A lanes[simd::width<A>];
    simd::vector<A> largest(A(0));
    for (index_t c = 0; c < count; c += simd::width<A>) largest = simd::max(largest, simd::abs(simd::load(row + c)));
    simd::store(lanes, largest);
    return *std::max_element(lanes, lanes + simd::width<A>);
  }
  /// A power of two that brings a number near 1, so that neither a sum nor a square of such numbers leaves the type.
  template <class A>
  static A near_one_over(A number) {
    using limits = std::numeric_limits<A>;
    return std::ldexp(A(1), -std::clamp(std::ilogb(number), limits::min_exponent - 1, limits::max_exponent - 2));
  }
  template <class A>
  static void multiply(A* row, index_t count, A factor) {
    simd::vector<A> const times(factor);
    for (index_t c = 0; c < count; c += simd::width<A>) simd::store(row + c, simd::load(row + c) * times);
  }
  template <class A, class Function>
  static A sum(A const* row, index_t count, Function&& function) {
    alignas(64) A lanes[simd::width<A>];
    simd::vector<A> total(A(0));
    for (index_t c = 0; c < count; c += simd::width<A>) total = total + function(simd::load(row + c));
    simd::store(lanes, total);
    A result = 0;
    for (A lane : lanes) result += lane;
    return result;
  }

  Map map_;
};

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
