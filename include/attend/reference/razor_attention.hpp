// SPDX-License-Identifier: BSD-3-Clause
// RazorAttention by definition: each query of a streaming head sees the sinks, its window, and one token that is the
// mean of the N tokens between them, N times. Written from the formula, in double; every query of a sequence sees its
// past.
#pragma once

#include <cmath>
#include <functional>
#include <vector>

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::reference {

struct razor_result {
  std::vector<double> output;       // [batch, head, token, value dimension]
  std::vector<double> log_sum_exp;  // [batch, head, token]
};

/// query [batch, query head, token, dimension], key and value [batch, key-value head, token, dimension].
template <class T>
razor_result razor_attention(tensor_view<T const, 4> query, tensor_view<T const, 4> key, tensor_view<T const, 4> value,
                             index_t sinks, index_t window, std::function<bool(index_t key_head)> const& streams) {
  razor_result result;
  index_t const tokens = key.extent(2), keys = key.extent(3), values = value.extent(3);
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < query.extent(1); ++h) {
      index_t const shared = h / (query.extent(1) / key.extent(1));
      for (index_t p = 0; p < tokens; ++p) {
        // Numerator and denominator, term by term; logits of tests are small enough for exp.
        std::vector<double> numerator(static_cast<std::size_t>(values), 0.0);
        double denominator = 0, dropped = 0;
        std::vector<double> mean_key(static_cast<std::size_t>(keys), 0.0), mean_value(numerator);
        auto const add = [&](std::vector<double> const& k, std::vector<double> const& v, double times) {
          double s = 0;
          for (index_t c = 0; c < keys; ++c)
            s += static_cast<double>(query(b, h, p, c)) * k[static_cast<std::size_t>(c)];
          double const weight = times * std::exp(s / std::sqrt(static_cast<double>(keys)));
          denominator += weight;
          for (std::size_t c = 0; c < v.size(); ++c) numerator[c] += weight * v[c];
        };
        for (index_t j = 0; j <= p; ++j) {
          std::vector<double> k, v;
          for (index_t c = 0; c < keys; ++c) k.push_back(static_cast<double>(key(b, shared, j, c)));
          for (index_t c = 0; c < values; ++c) v.push_back(static_cast<double>(value(b, shared, j, c)));
          if (!streams(shared) || j < sinks || p - j < window) {
            add(k, v, 1);
            continue;
          }
          dropped += 1;
          for (std::size_t c = 0; c < k.size(); ++c) mean_key[c] += k[c];
          for (std::size_t c = 0; c < v.size(); ++c) mean_value[c] += v[c];
        }
        if (dropped > 0) {
          for (double& x : mean_key) x /= dropped;
          for (double& x : mean_value) x /= dropped;
          add(mean_key, mean_value, dropped);
        }
        for (double x : numerator) result.output.push_back(x / denominator);
        result.log_sum_exp.push_back(std::log(denominator));
      }
    }
  return result;
}

}  // namespace attend::inline ATTEND_TARGET::reference
