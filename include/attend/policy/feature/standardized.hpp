// A feature map of rows that have mean 0 and variance 1:   phi(x) = map((x - mean(x)) / deviation(x))
//
// mean and deviation are those of the row's d numbers, sqrt(mean_c((x_c - mean)^2)); a row of equal numbers becomes
// zeros.
//
// With the Taylor map and scale 1 these are the weights of Fastmax: Armin Gerami, Monte Hoover, Pranav Dulepet, Ramani
// Duraiswami: FAST: Factorizable Attention for Speeding up Transformers, 2024.
#pragma once

#include "../../core/scratch.hpp"
#include "feature.hpp"

namespace attend {

template <FeatureMap Map>
class standardized {
 public:
  using option_kind = option::features;

  constexpr explicit standardized(Map map) : map_(std::move(map)) {}

  index_t features(index_t dimension) const { return map_.features(dimension); }
  void check(state_shape const& shape) const { map_.check(shape); }
  template <class A>
  void prepare(token_rows<A> const& rows, A* to, index_t stride) const {
    constexpr index_t step = simd::width<A>;
    index_t const d = rows.dimension, padded = round_up(d, step);
    for (index_t i = 0; i < rows.count; ++i) {
      A* const row = to + i * stride;
      std::fill(std::copy_n(rows.row(i), d, row), row + padded, A(0));
      A const mean = sum(row, padded, [](auto const& x) { return x; }) / static_cast<A>(d);
      simd::vector<A> const shift(mean);
      for (index_t c = 0; c < padded; c += step) simd::store(row + c, simd::load(row + c) - shift);
      std::fill(row + d, row + padded, A(0));
      A const variance = sum(row, padded, [](auto const& x) { return x * x; }) / static_cast<A>(d);
      simd::vector<A> const factor(variance == 0 ? A(0) : 1 / std::sqrt(variance));
      for (index_t c = 0; c < padded; c += step) simd::store(row + c, simd::load(row + c) * factor);
    }
  }
  template <class A>
  void fill_prepared(token_rows<A> const& rows, A* to, index_t stride) const {
    fill_features(map_, rows, to, stride);
  }
  template <class A>
  auto kernel(simd::vector<A> const& product, index_t dimension) const requires KernelFeatures<Map> {
    return map_.kernel(product, dimension);
  }
  template <class A>
  void fill(token_rows<A> const& rows, A* to, index_t stride) const {
    index_t const padded = round_up(rows.dimension, simd::width<A>);
    scratch memory;
    A* const standard = memory.take<A>(rows.count * padded);
    prepare(rows, standard, padded);
    token_rows<A> standard_rows = rows;
    standard_rows.data = standard;
    standard_rows.stride = padded;
    fill_prepared(standard_rows, to, stride);
  }

 private:
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

}  // namespace attend
