// SPDX-License-Identifier: BSD-3-Clause
// Vision-aware heads: how far the outputs of heads depend on an image among the keys (VHD), and outputs of the heads
// that do, reinforced (VHR).
//
//   d[l, h] = || o[l, h] of the last token with the image - the same without it ||_2        head_divergence
//   d[l, h] = 0 where it is an outlier: above mean_h d[l, h] + t * deviation_h d[l, h]
//   gate[l, h] = alpha where d[l, h] > median_h d[l, h], from a first layer on, and 1 otherwise     reinforced_heads
//
// The two outputs are those of two calls, of which one has no keys of the image: `causal{} & !keys_in(first, last)`, or
// the prompt without them. The gates are those of head_gates, before the projection of the heads.
//
// Cost: the two calls; the rest is a few operations for each head.
//
// Jinghan He et al.: Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence, 2025 (distance,
// median and alpha = 2 by an overview of the paper; which divergences are outliers is this library's reading).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "../../core/check.hpp"
#include "../../core/scratch.hpp"

namespace attend::inline ATTEND_TARGET::systems {

/// What is reinforced, and how much: the factor alpha of heads above the median of their layer, from `first_layer` on,
/// and how many standard deviations above the mean of its layer a divergence is an outlier.
struct reinforcement {
  double factor = 2;
  index_t first_layer = 0;
  double outlier = 3;
};

/// Writes the divergence of each head: outputs with and without the image are [batch, head, query, dimension], of which
/// the last queries are compared; their numbers of queries may differ. divergence is [batch, head] of double.
///
/// Throws argument_error, before anything is written, where shapes, strides or memory do not fit, or there is no query.
///
///     softmax_attention(q, k, v, o, causal{});
///     softmax_attention(q, k, v, o2, causal{} & !keys_in(35, 611));  // without the image
///     std::vector<double> divergences(8);
///     head_divergence(o, o2, tensor_view<double, 2>(divergences.data(), {1, 8}));
template <TensorArgument With, TensorArgument Without>
void head_divergence(With const& with_image, Without const& without_image, tensor_view<double, 2> divergence) {
  using T = element_of_t<With const>;
  tensor_view<T const, 4> const with = raise<4>(view_of(with_image)), without = raise<4>(view_of(without_image));
  detail::check_view("with_image", with);
  detail::check_view("without_image", without);
  detail::check_output_view("divergence", divergence);
  detail::check_extent("without_image", "batch", without.extent(0), with.extent(0), "with_image");
  detail::check_extent("without_image", "heads", without.extent(1), with.extent(1), "with_image");
  detail::check_extent("without_image", "head dimension", without.extent(3), with.extent(3), "with_image");
  detail::check_extent("divergence", "batch", divergence.extent(0), with.extent(0), "with_image");
  detail::check_extent("divergence", "heads", divergence.extent(1), with.extent(1), "with_image");
  for (auto const& [name, tensor] : {std::pair("with_image", &with), std::pair("without_image", &without)})
    if (tensor->extent(2) < 1) fail(name, "expected at least 1 query, got ", tensor->extent(2));
  for (index_t b = 0; b < with.extent(0); ++b)
    for (index_t h = 0; h < with.extent(1); ++h) {
      double sum = 0;
      for (index_t c = 0; c < with.extent(3); ++c) {
        double const difference = static_cast<double>(with(b, h, with.extent(2) - 1, c)) -
                                  static_cast<double>(without(b, h, without.extent(2) - 1, c));
        sum += difference * difference;
      }
      divergence(b, h) = std::sqrt(sum);
    }
}

/// Writes the gates of heads from their divergences: both are [layer, head], gates of float, or of double for tensors
/// of double. A divergence that is no number is an outlier. Of an even number of heads the median is the mean of the
/// two in the middle.
///
/// Throws argument_error, before anything is written, where shapes, strides or memory do not fit, the factor is not
/// finite or the outliers' bound is negative.
///
///     std::vector<double> const divergences{0.1, 0.7, 0.2, 0.3};
///     std::vector<float> gate(4);
///     reinforced_heads(tensor_view<double const, 2>(divergences.data(), {1, 4}), {.factor = 2},
///                      tensor_view<float, 2>(gate.data(), {1, 4}));
template <class A>
void reinforced_heads(tensor_view<double const, 2> divergence, reinforcement const& how, tensor_view<A, 2> gates) {
  detail::check_view("divergence", divergence);
  detail::check_output_view("gates", gates);
  index_t const layers = divergence.extent(0), heads = divergence.extent(1);
  detail::check_extent("gates", "layers", gates.extent(0), layers, "divergence");
  detail::check_extent("gates", "heads", gates.extent(1), heads, "divergence");
  detail::check_apart("gates", gates, "divergence", divergence);
  detail::check_finite("factor", how.factor);
  if (!(how.outlier >= 0)) fail("outlier", "expected at least 0 deviations, got ", how.outlier);
  scratch memory;
  double *const of_layer = memory.allocate<double>(heads), *const sorted = memory.allocate<double>(heads);
  for (index_t l = 0; l < layers; ++l) {
    double mean = 0, variance = 0, count = 0;
    for (index_t h = 0; h < heads; ++h)
      if (double const d = divergence(l, h); std::isfinite(d)) mean += d, ++count;
    mean /= std::max(count, 1.0);
    for (index_t h = 0; h < heads; ++h)
      if (double const d = divergence(l, h); std::isfinite(d)) variance += (d - mean) * (d - mean);
    double const most = mean + how.outlier * std::sqrt(variance / std::max(count, 1.0));
    for (index_t h = 0; h < heads; ++h) {
      double const d = divergence(l, h);
      sorted[h] = of_layer[h] = std::isfinite(d) && d <= most ? d : 0;
    }
    std::sort(sorted, sorted + heads);
    double const median = heads > 0 ? (sorted[(heads - 1) / 2] + sorted[heads / 2]) / 2 : 0;
    for (index_t h = 0; h < heads; ++h)
      gates(l, h) = static_cast<A>(l >= how.first_layer && of_layer[h] > median ? how.factor : 1);
  }
}

}  // namespace attend::inline ATTEND_TARGET::systems
