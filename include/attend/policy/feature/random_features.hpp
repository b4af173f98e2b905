// SPDX-License-Identifier: BSD-3-Clause
// FAVOR+: positive random features of the softmax kernel. With m directions w_r, each row a normal vector of dimension
// d,
//
//   phi(x)_r = exp(w_r . x' - |x'|^2 / 2) / sqrt(m)      x' = x / d^(1/4)
//   E[phi(q) . phi(k)] = exp(q . k / sqrt(d))            o_i = phi(q_i)^T S / (phi(q_i) . z)
//
// Directions come in blocks of d that are orthogonal, with the lengths of normal vectors of their own: the estimate
// keeps its mean and loses variance.
//
// The exponents are stabilised exactly: the state is a softmax over the tokens so far of each feature's exponents, and
// the query's weights take up the sums (time_softmax.hpp). No feature overflows, no sum vanishes, and the epsilon that
// the authors' code adds to every feature is not needed. What is common to all features of a query, exp(-|q'|^2 / 2),
// cancels.
//
// Krzysztof Choromanski et al.: Rethinking Attention with Performers, 2021.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "projection.hpp"
#include "time_softmax.hpp"

namespace attend::inline ATTEND_TARGET {

namespace linear {

/// Draws `count` directions of a dimension, [count][dimension]: blocks of orthogonal ones, whose lengths are those of
/// normal vectors. Throws argument_error for a negative count or a dimension less than 1.
///
///     std::vector<double> const directions = orthogonal_directions(256, 128, 1);  // count, dimension, seed
inline std::vector<double> orthogonal_directions(index_t count, index_t dimension, std::uint64_t seed) {
  extend::arithmetic_mode const arithmetic;
  if (count < 0 || dimension < 1)
    extend::fail("orthogonal_directions", "expected a count of at least 0 and a dimension of at least 1, got ", count,
                 " and ", dimension);
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal;
  std::vector<double> directions(static_cast<std::size_t>(count * dimension));
  auto const dot = [&](double const* a, double const* b) {
    double sum = 0;
    for (index_t c = 0; c < dimension; ++c) sum += a[c] * b[c];
    return sum;
  };
  for (index_t r = 0; r < count; ++r) {
    double* const row = directions.data() + r * dimension;
    index_t const block = r / dimension * dimension;
    double length = 0, rest = 0;
    // A draw that is nearly in the span of the earlier ones would lose its digits: it is drawn again.
    do {
      for (index_t c = 0; c < dimension; ++c) row[c] = normal(engine);
      length = dot(row, row);
      for (int pass = 0; pass < 2; ++pass)
        for (index_t earlier = block; earlier < r; ++earlier) {
          double const* const other = directions.data() + earlier * dimension;
          double const part = dot(row, other) / dot(other, other);
          for (index_t c = 0; c < dimension; ++c) row[c] -= part * other[c];
        }
      rest = dot(row, row);
    } while (!(rest > 1e-12 * length));
    double square = 0;
    for (index_t c = 0; c < dimension; ++c) {
      double const x = normal(engine);
      square += x * x;
    }
    for (index_t c = 0; c < dimension; ++c) row[c] *= std::sqrt(square / rest);
  }
  return directions;
}

}  // namespace linear

namespace detail {

/// w_r . x' of queries, w_r . x' - |x'|^2 / 2 of keys.
template <class A>
class random_exponents {
 public:
  using option_kind = option::features;

  explicit random_exponents(tensor_view<double const, 2> const& directions) {
    arithmetic_mode const arithmetic;
    check_view("random_features", directions);
    dimension_ = directions.extent(1);
    double const factor = dimension_ > 0 ? std::pow(static_cast<double>(dimension_), -0.25) : 1.0;
    half_ = static_cast<A>(factor * factor / 2);
    std::vector<double> scaled;
    for (index_t r = 0; r < directions.extent(0); ++r)
      for (index_t c = 0; c < dimension_; ++c) scaled.push_back(directions(r, c) * factor);
    projection_ = feature_projection<A>(
        "random_features", tensor_view<double const, 3>(scaled.data(), {1, directions.extent(0), dimension_}),
        tensor_view<double const, 2>());
  }

  index_t features(index_t) const { return projection_.features(); }
  void check(state_shape const& shape) const { projection_.check("random_features", 1, shape.key_dimension); }
  void fill(token_rows<A> const& rows, A* to, index_t stride) const {
    constexpr index_t step = simd::width<A>;
    projection_.fill(rows, to, stride);
    if (rows.side == token_side::query) return;
    for (index_t i = 0; i < rows.count; ++i) {
      A square = 0;
      for (index_t c = 0; c < dimension_; ++c) square += rows.row(i)[c] * rows.row(i)[c];
      simd::vector<A> const shift(half_ * square);
      A* const row = to + i * stride;
      for (index_t r = 0; r < features(0); r += step) simd::store(row + r, simd::load(row + r) - shift);
    }
  }

 private:
  feature_projection<A> projection_;
  index_t dimension_;
  A half_;
};

}  // namespace detail

namespace linear {

/// Maps queries and keys by positive random features. A is the accumulation type: float, or double for tensors of
/// double.
///
///     random_features<float> const map(256, 128, 1);  // features, key dimension, seed
///     performer_attention(q, k, v, o, map, causal{});
template <class A = float>
class random_features
    : public time_softmax<detail::random_exponents<A>, detail::random_exponents<A>, time_weights::by_sum> {
 public:
  /// Takes directions [feature, dimension] of double.
  explicit random_features(tensor_view<double const, 2> const& directions)
      : random_features(detail::random_exponents<A>(directions)) {}
  /// Draws directions of its own: orthogonal_directions(count, dimension, seed).
  random_features(index_t count, index_t dimension, std::uint64_t seed)
      : random_features(from(orthogonal_directions(count, dimension, seed), count, dimension)) {}

 private:
  explicit random_features(detail::random_exponents<A> const& exponents)
      : time_softmax<detail::random_exponents<A>, detail::random_exponents<A>, time_weights::by_sum>(exponents,
                                                                                                     exponents) {}
  static detail::random_exponents<A> from(std::vector<double> const& directions, index_t count, index_t dimension) {
    return detail::random_exponents<A>(tensor_view<double const, 2>(directions.data(), {count, dimension}));
  }
};

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
