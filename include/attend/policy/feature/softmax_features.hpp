// SPDX-License-Identifier: BSD-3-Clause
// phi(x)_c = exp(x_c) / sum_e exp(x_e): each row becomes weights that sum to 1.
//
// Zhuoran Shen, Mingyuan Zhang, Haiyu Zhao, Shuai Yi, Hongsheng Li: Efficient Attention: Attention with Linear
// Complexities, 2021 (on queries); Rares Dolga et al.: Latent Attention for Linear Time Transformers, 2024.
#pragma once

#include "../../simd/dot.hpp"
#include "feature.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// The largest of `count` numbers, -inf of none. The first NaN is the largest.
template <class A>
A largest_of(A const* x, index_t count) {
  constexpr index_t step = simd::width<A>;
  alignas(64) A lanes[array_size(step)];
  simd::vector<A> largest(-infinity<A>);
  index_t i = 0;
  for (; i + step <= count; i += step) largest = simd::max_or_nan(largest, simd::widen(x + i));
  simd::store(lanes, largest);
  A result = -infinity<A>;
  for (A lane : lanes) result = result >= lane ? result : lane;
  for (; i < count; ++i) result = result >= x[i] ? result : x[i];
  return result;
}

/// to_c = weight_c exp(x_c) / sum_e weight_e exp(x_e) for `count` numbers; without a weight pointer, all weights are 1.
/// Where nothing has weight, zeros. x may be `to`.
template <class A>
void softmax_row(A const* x, A const* weight, index_t count, A* to) {
  constexpr index_t step = simd::width<A>;
  A const largest = largest_of(x, count);
  if (largest == -infinity<A>) {
    std::fill_n(to, count, A(0));
    return;
  }
  alignas(64) A lanes[array_size(step)];
  simd::vector<A> sum(A(0));
  for (index_t c = 0; c < count; c += step) {
    index_t const left = std::min(step, count - c);
    auto const part = [&](A const* from) { return left == step ? simd::widen(from) : simd::widen_part(from, left); };
    simd::vector<A> e = simd::exp<A>(part(x + c) - simd::vector<A>(largest));
    if (weight) e = e * part(weight + c);
    if (left == step) {
      e.store_unaligned(to + c);
      sum = sum + e;
    } else {
      std::fill_n(lanes, step, A(0));
      simd::narrow_part(lanes, e, left);
      std::copy_n(lanes, left, to + c);
      sum = sum + simd::load(lanes);
    }
  }
  simd::store(lanes, sum);
  A total = 0;
  for (A lane : lanes) total += lane;
  simd::vector<A> const factor(1 / total);
  index_t c = 0;
  for (; c + step <= count; c += step) (simd::widen(to + c) * factor).store_unaligned(to + c);
  for (; c < count; ++c) to[c] *= 1 / total;
}

}  // namespace detail

namespace linear {

/// Maps each row to weights that sum to 1.
///
///     linear_attention(q, k, v, o, softmax_features{});
struct softmax_features {
  using option_kind = option::features;

  index_t features(index_t dimension) const { return dimension; }
  void check(extend::state_shape const&) const {}
  template <class A>
  void fill(extend::token_rows<A> const& rows, A* to, index_t stride) const {
    for (index_t i = 0; i < rows.count; ++i)
      detail::softmax_row<A>(rows.row(i), nullptr, rows.dimension, to + i * stride);
  }
  /// dx = phi (dphi - phi . dphi)
  template <class A>
  void pull(extend::token_rows<A> const& rows, A const* of_features, index_t stride, A* to, index_t to_stride) const {
    using V = simd::vector<A>;
    for (index_t i = 0; i < rows.count; ++i) {
      A const* const given = of_features + i * stride;
      A* const row = to + i * to_stride;
      detail::softmax_row<A>(rows.row(i), nullptr, rows.dimension, row);
      V const mean(simd::dot<A>(row, given, rows.dimension));
      simd::transform_row(row, rows.dimension, [&](V const& p, V const& g) { return p * (g - mean); }, row, given);
    }
  }
};

}  // namespace linear

}  // namespace attend::inline ATTEND_TARGET
