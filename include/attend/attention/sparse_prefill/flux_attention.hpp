// SPDX-License-Identifier: BSD-3-Clause
// Flux Attention: a small network says, once for each sequence and layer, whether the layer attends to everything or
// streams; the prompt and all steps of its decoding keep to that.
//
//   x      = mean over query heads, and over the first `pool` and the last `pool` tokens, of the prompt's queries
//   logits = decision(features(x))        two networks: linear layers with SiLU between them, none behind the last
//   full   = logits[1] > logits[0]        else sparse: the first `sinks` tokens and the last `window` ones
//
//   query [batch, query head, token, dimension d]; the paper's networks are d -> 8d -> 2d and 2d -> 4d -> d -> 2
//
// Where a prompt is shorter than twice the pool, tokens in both of its ends count twice, as in the authors' code. All
// heads of a layer do the same, so that none waits for another.
//
// The other sparse form is XAttention for the prompt (x_attention.hpp): with one sequence, that call in the place of a
// mask where `full` is 0.
//
// Cost: the pooled queries are read once, and the networks' weights once for each sequence.
//
// Flux Attention: Context-Aware Hybrid Attention for Efficient LLMs Inference, 2026.
#pragma once

#include <cmath>
#include <span>

#include "../../core/check.hpp"
#include "../../core/scratch.hpp"
#include "../../policy/mask/streaming.hpp"
#include "../../simd/convert.hpp"
#include "../../simd/dot.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// A linear layer: weight [outputs, inputs] and bias [outputs] of the caller, which must outlive it.
struct flux_layer {
  tensor_view<float const, 2> weight;
  tensor_view<float const, 1> bias;
};

/// The two networks that route a layer, and how many tokens at each end of a prompt are pooled; 0 pools all of them.
///
///     std::array<float, 256> const weights{};  // of one layer alone, 128 to 2
///     std::array<float, 2> const bias{0.5f, 0};
///     flux_layer const layer[] = {{tensor_view<float const, 2>(weights.data(), {2, 128}), view_of(bias)}};
///     std::vector<std::int32_t> full(static_cast<std::size_t>(q.dimension(0)));
///     flux_router{{}, layer}.route(q, full);
///     softmax_attention(q, k, v, o, flux_mask{.full = full});
struct flux_router {
  std::span<flux_layer const> features, decision;
  index_t pool = 100;

  /// Writes for each sequence of query [batch, query head, token, dimension] whether it attends to everything, 1, or
  /// streams, 0. Throws argument_error where a layer does not fit the one before it, the last has not 2 outputs, or
  /// `full` has not one number for each sequence.
  template <TensorArgument Query>
  void route(Query const& query, std::span<std::int32_t> full) const {
    using T = element_of_t<Query const>;
    arithmetic_mode const arithmetic;
    tensor_view<T const, 4> const q = raise<4>(view_of(query));
    detail::check_view("query", q);
    index_t const widest = check(q.extent(3));
    detail::check_extent("full", "numbers", static_cast<index_t>(full.size()), q.extent(0), "the sequences");
    if (q.extent(1) == 0 || q.extent(2) == 0) fail("query", "expected at least 1 head and 1 token, got none");
    scratch memory;
    float* x = memory.allocate<float>(widest);
    float* y = memory.allocate<float>(widest);
    for (index_t s = 0; s < q.extent(0); ++s) {
      mean(q, s, x);
      for (std::span<flux_layer const> network : {features, decision})
        for (std::size_t i = 0; i < network.size(); ++i) {
          run(network[i], i + 1 < network.size(), x, y);
          std::swap(x, y);
        }
      full[static_cast<std::size_t>(s)] = x[1] > x[0];
    }
  }

 private:
  /// The widest of the networks' rows.
  index_t check(index_t dimension) const {
    if (pool < 0 || pool >= token_limit)
      fail("flux_router", "expected a pool of 0 to ", token_limit - 1, ", got ", pool);
    index_t width = dimension, widest = dimension;
    for (std::span<flux_layer const> network : {features, decision})
      for (flux_layer const& layer : network) {
        detail::check_view("weight", layer.weight);
        detail::check_view("bias", layer.bias);
        detail::check_extent("weight", "inputs", layer.weight.extent(1), width, "what comes before it");
        detail::check_extent("bias", "numbers", layer.bias.extent(0), layer.weight.extent(0), "weight");
        width = layer.weight.extent(0);
        widest = std::max(widest, width);
      }
    if (width != 2) fail("decision", "expected 2 outputs, got ", width);
    return widest;
  }

  template <Element T>
  void mean(tensor_view<T const, 4> const& query, index_t sequence, float* to) const {
    index_t const tokens = query.extent(2), dimension = query.extent(3);
    index_t const each = pool == 0 ? 0 : std::min(pool, tokens);
    scratch memory;
    auto* const row = memory.allocate<accumulation_t<T>>(dimension);
    double* const sum = memory.allocate<double>(dimension);
    std::fill_n(sum, dimension, 0.0);
    auto const add = [&](index_t first, index_t last) {
      for (index_t head = 0; head < query.extent(1); ++head)
        for (index_t t = first; t < last; ++t) {
          simd::widen_row(&query(sequence, head, t, 0), row, dimension);
          for (index_t c = 0; c < dimension; ++c) sum[c] += static_cast<double>(row[c]);
        }
    };
    if (pool == 0) {
      add(0, tokens);
    } else {
      add(0, each);
      add(tokens - each, tokens);
    }
    double const count = static_cast<double>(query.extent(1) * (pool == 0 ? tokens : 2 * each));
    for (index_t c = 0; c < dimension; ++c) to[c] = static_cast<float>(sum[c] / count);
  }

  static void run(flux_layer const& layer, bool bends, float const* x, float* y) {
    for (index_t i = 0; i < layer.weight.extent(0); ++i) {
      float const sum = layer.bias(i) + simd::dot(&layer.weight(i, 0), x, layer.weight.extent(1));
      y[i] = bends ? sum / (1 + std::exp(-sum)) : sum;
    }
  }
};

/// Shows a query everything up to its own position in sequences that are full, and in the others the first `sinks`
/// tokens and the last `window` ones. A call throws argument_error where a number is out of range, or `full` has not
/// one number for each sequence.
///
///     std::vector<std::int32_t> const full(8);  // all eight sequences stream
///     decode_attention(q, cache, o, flux_mask{.full = full});
struct flux_mask {
  using option_kind = option::mask;
  index_t sinks = 128;
  index_t window = 1024;
  /// One number for each sequence, 0 for those that stream.
  index_list full = {};

  void check(problem_shape const& shape) const {
    streaming{sinks, window}.check_sizes("flux_mask");
    if (full.size() != shape.sequences)
      fail("flux_mask", "expected one number for each of ", shape.sequences, " sequences, got ", full.size());
  }
  template <class T>
  key_range bounds(tile_rows<T> const& rows) const {
    return of(rows).bounds(rows);
  }
  template <class T>
  visibility classify(tile_rows<T> const& rows, key_range range) const {
    return of(rows).classify(rows, range);
  }
  template <class T>
  auto bind(tile_rows<T> const& rows, key_range range) const {
    return of(rows).bind(rows, range);
  }

 private:
  template <class T>
  streaming of(tile_rows<T> const& rows) const {
    return {sinks, full[rows.sequence] != 0 ? token_limit - 1 : window};
  }
};

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
