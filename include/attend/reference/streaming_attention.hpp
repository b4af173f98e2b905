// SPDX-License-Identifier: BSD-3-Clause
// StreamingLLM by definition: for every token, the keys that are kept are taken from the text, numbered anew, and
// rotated by their numbers, as is the query. In double; pairs are halves of a row, and frequencies those of RoFormer.
#pragma once

#include <cmath>

#include "rotary_embedding.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// query [batch, query head, token, dimension], key and value [batch, key-value head, token, dimension], none of them
/// rotated. Gives [batch, head, token, value dimension].
template <class T>
std::vector<double> streaming_attention(tensor_view<T const, 4> query, tensor_view<T const, 4> key,
                                        tensor_view<T const, 4> value, index_t sinks, index_t window, double base) {
  std::vector<double> output;
  index_t const tokens = key.extent(2), dimension = key.extent(3), pairs = dimension / 2;
  auto const rotated = [&](tensor_view<T const, 4> const& all, index_t b, index_t h, index_t token, index_t number) {
    tensor_view<T const, 4> const row(&all(b, h, token, 0), {1, 1, 1, dimension});
    return rotary_embedding<T>(row, pairs, false, [&](index_t, index_t, index_t pair) {
      return std::polar(1.0, static_cast<double>(number) * rotary_frequency(pair, dimension, base));
    });
  };
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < query.extent(1); ++h) {
      index_t const shared = h / (query.extent(1) / key.extent(1));
      for (index_t p = 0; p < tokens; ++p) {
        std::vector<index_t> kept;
        for (index_t j = 0; j <= p; ++j)
          if (j < sinks || p - j < window) kept.push_back(j);
        // The query's own token is the last that is kept.
        index_t const count = static_cast<index_t>(kept.size());
        auto const q = rotated(query, b, h, p, count - 1);
        std::vector<double> numerator(static_cast<std::size_t>(value.extent(3)), 0.0);
        double denominator = 0;
        for (index_t number = 0; number < count; ++number) {
          index_t const j = kept[static_cast<std::size_t>(number)];
          auto const k = rotated(key, b, shared, j, number);
          double s = 0;
          for (std::size_t c = 0; c < k.size(); ++c) s += q[c] * k[c];
          double const weight = std::exp(s / std::sqrt(static_cast<double>(dimension)));
          denominator += weight;
          for (std::size_t c = 0; c < numerator.size(); ++c)
            numerator[c] += weight * static_cast<double>(value(b, shared, j, static_cast<index_t>(c)));
        }
        for (double x : numerator) output.push_back(x / denominator);
      }
    }
  return output;
}

}  // namespace attend::inline ATTEND_TARGET::reference
