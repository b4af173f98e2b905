// SPDX-License-Identifier: BSD-3-Clause
// Attention through channels, each of which is a softmax over the tokens, by definition and in double:
//
//   o_t = sum_c w(q_t)_c sum_j softmax_j(k_jc) v_j          over the tokens j <= t where causal, else over all
//
// LightNet: w(q) = silu(q). Latte: w(q) = softmax(q).
#pragma once

#include "kernel_attention.hpp"

namespace attend::inline ATTEND_TARGET::reference {

template <class T>
kernel_result time_softmax(tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key,
                           tensor_view<T const, 4> const& value, bool causal, std::function<row(row)> const& weights) {
  index_t const queries = query.extent(2), keys = key.extent(2), heads = query.extent(1);
  kernel_result result;
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < queries; ++i) {
        index_t const seen = causal ? i + keys - queries + 1 : keys;
        row const w = weights(row_of(query, b, h, i));
        row output(static_cast<std::size_t>(value.extent(3))), magnitude(output.size());
        for (std::size_t channel = 0; channel < w.size(); ++channel) {
          double largest = -infinity<double>, sum = 0;
          auto const logit = [&](index_t j) {
            return static_cast<double>(key(b, h * key.extent(1) / heads, j, static_cast<index_t>(channel)));
          };
          for (index_t j = 0; j < seen; ++j) largest = std::max(largest, logit(j));
          for (index_t j = 0; j < seen; ++j) sum += std::exp(logit(j) - largest);
          for (index_t j = 0; j < seen; ++j) {
            double const p = w[channel] * std::exp(logit(j) - largest) / sum;
            row const v = row_of(value, b, h * value.extent(1) / heads, j);
            for (std::size_t c = 0; c < v.size(); ++c) {
              output[c] += p * v[c];
              magnitude[c] += std::abs(p * v[c]);
            }
          }
        }
        result.output.insert(result.output.end(), output.begin(), output.end());
        result.magnitude.insert(result.magnitude.end(), magnitude.begin(), magnitude.end());
      }
  return result;
}

}  // namespace attend::inline ATTEND_TARGET::reference
