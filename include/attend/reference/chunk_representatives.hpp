// SPDX-License-Identifier: BSD-3-Clause
// LongHeads' chunk representatives by definition, in double: attention within the chunk, its mean, and what that finds.
#pragma once

#include <cmath>
#include <vector>

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// Rows [token][dimension], queries and keys of which are rotated (in halves) for their place in the chunk where
/// `rotates`.
inline std::vector<double> chunk_representative(std::vector<std::vector<double>> const& query,
                                                std::vector<std::vector<double>> const& key,
                                                std::vector<std::vector<double>> const& value, bool rotates) {
  std::size_t const tokens = key.size(), dimension = key[0].size(), pairs = dimension / 2;
  auto const rotated = [&](std::vector<double> x, std::size_t position) {
    if (!rotates) return x;
    for (std::size_t i = 0; i < pairs; ++i) {
      double const angle =
          static_cast<double>(position) * std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(pairs));
      double const a = x[i], b = x[pairs + i];
      x[i] = a * std::cos(angle) - b * std::sin(angle);
      x[pairs + i] = b * std::cos(angle) + a * std::sin(angle);
    }
    return x;
  };
  auto const attention = [&](std::vector<double> const& q, auto const& key_of, auto const& values) {
    std::vector<double> weight, result(dimension, 0.0);
    double sum = 0;
    for (std::size_t j = 0; j < tokens; ++j) {
      double logit = 0;
      std::vector<double> const k = key_of(j);
      for (std::size_t c = 0; c < dimension; ++c) logit += q[c] * k[c];
      weight.push_back(std::exp(logit / std::sqrt(static_cast<double>(dimension))));
      sum += weight.back();
    }
    for (std::size_t j = 0; j < tokens; ++j)
      for (std::size_t c = 0; c < dimension; ++c) result[c] += weight[j] / sum * values[j][c];
    return result;
  };
  std::vector<double> mean(dimension, 0.0);
  for (std::size_t i = 0; i < tokens; ++i) {
    auto const one = attention(rotated(query[i], i), [&](std::size_t j) { return rotated(key[j], j); }, value);
    for (std::size_t c = 0; c < dimension; ++c) mean[c] += one[c] / static_cast<double>(tokens);
  }
  return attention(mean, [&](std::size_t j) { return key[j]; }, key);
}

}  // namespace attend::inline ATTEND_TARGET::reference
