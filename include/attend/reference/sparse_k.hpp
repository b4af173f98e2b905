// SPDX-License-Identifier: BSD-3-Clause
// The SparseK operator and its causal attention by definition, in double: tau is found by halving an interval, for
// every prefix anew.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::reference {

inline std::vector<double> sparse_k(std::vector<double> const& scores, index_t k) {
  auto const clipped = [&](double tau) {
    std::vector<double> p;
    for (double u : scores) p.push_back(std::clamp(u - tau, 0.0, 1.0));
    return p;
  };
  auto const count = static_cast<index_t>(scores.size());
  if (k >= count) return std::vector<double>(scores.size(), 1.0);
  double low = *std::min_element(scores.begin(), scores.end()) - 1,
         high = *std::max_element(scores.begin(), scores.end());
  for (int step = 0; step < 200; ++step) {
    double const middle = low + (high - low) / 2;
    double sum = 0;
    for (double p : clipped(middle)) sum += p;
    (sum > static_cast<double>(k) ? low : high) = middle;
  }
  return clipped(high);
}

/// [batch, head, query, value dimension].
template <class T, class U>
std::vector<double> sparse_k_causal_attention(tensor_view<T const, 4> query, tensor_view<T const, 4> key,
                                              tensor_view<T const, 4> value, tensor_view<U const, 3> scores, index_t k,
                                              index_t window) {
  std::vector<double> output;
  index_t const heads = query.extent(1), shift = key.extent(2) - query.extent(2);
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < query.extent(2); ++i) {
        index_t const hk = h / (heads / key.extent(1)), hv = h / (heads / value.extent(1)), position = i + shift;
        std::vector<double> u, gate;
        for (index_t j = 0; j <= position - window; ++j) u.push_back(static_cast<double>(scores(b, hk, j)));
        if (!u.empty()) gate = sparse_k(u, k);
        std::vector<std::size_t> order(u.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::stable_sort(order.begin(), order.end(), [&](auto x, auto y) { return u[x] > u[y]; });
        for (std::size_t j = static_cast<std::size_t>(k); j < order.size(); ++j) gate[order[j]] = -1;
        double weight_sum = 0;
        std::vector<double> sum(static_cast<std::size_t>(value.extent(3)), 0.0);
        for (index_t j = 0; j <= position; ++j) {
          double const times = j <= position - window ? gate[static_cast<std::size_t>(j)] : 1;
          if (times < 0) continue;
          double s = 0;
          for (index_t c = 0; c < key.extent(3); ++c)
            s += static_cast<double>(query(b, h, i, c)) * static_cast<double>(key(b, hk, j, c));
          double const weight = std::exp(s / std::sqrt(static_cast<double>(key.extent(3))));
          weight_sum += weight;
          for (std::size_t c = 0; c < sum.size(); ++c)
            sum[c] += weight * times * static_cast<double>(value(b, hv, j, static_cast<index_t>(c)));
        }
        for (double x : sum) output.push_back(weight_sum > 0 ? x / weight_sum : 0);
      }
  return output;
}

}  // namespace attend::inline ATTEND_TARGET::reference
