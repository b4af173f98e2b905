// SPDX-License-Identifier: BSD-3-Clause
// TokenSelect by definition: votes of all heads for the tokens between the first and the last ones, in double, and the
// tokens that all heads see.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// seen[token]; query [batch, query head, query, dimension], key [batch, key head, key, dimension].
inline std::vector<bool> tokens_by_votes(tensor_view<double const, 4> query, tensor_view<double const, 4> key,
                                         index_t batch, index_t first, index_t last, index_t chosen,
                                         index_t neighbours) {
  index_t const heads = query.extent(1), tokens = key.extent(2), end = std::max(tokens - last, first);
  std::vector<double> votes(static_cast<std::size_t>(tokens), 0.0), raised(votes);
  for (index_t h = 0; h < heads; ++h) {
    std::vector<double> logits(static_cast<std::size_t>(tokens), 0.0);
    double most = -infinity<double>, sum = 0;
    for (index_t t = first; t < end; ++t) {
      double& logit = logits[static_cast<std::size_t>(t)];
      for (index_t c = 0; c < query.extent(3); ++c) {
        double mean = 0;
        for (index_t i = 0; i < query.extent(2); ++i) mean += query(batch, h, i, c);
        logit += mean / static_cast<double>(query.extent(2)) * key(batch, h / (heads / key.extent(1)), t, c);
      }
      most = std::max(most, logit);
    }
    for (index_t t = first; t < end; ++t) sum += std::exp(logits[static_cast<std::size_t>(t)] - most);
    for (index_t t = first; t < end; ++t)
      votes[static_cast<std::size_t>(t)] += std::exp(logits[static_cast<std::size_t>(t)] - most) / sum;
  }
  index_t const reach = (neighbours - 1) / 2;
  std::vector<index_t> order;
  for (index_t t = first; t < end; ++t) {
    order.push_back(t);
    for (index_t other = std::max(t - reach, first); other < std::min(t + reach + 1, end); ++other)
      raised[static_cast<std::size_t>(t)] =
          std::max(raised[static_cast<std::size_t>(t)], votes[static_cast<std::size_t>(other)]);
  }
  std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) {
    return raised[static_cast<std::size_t>(a)] > raised[static_cast<std::size_t>(b)];
  });
  std::vector<bool> seen(static_cast<std::size_t>(tokens), false);
  for (index_t t = 0; t < tokens; ++t) seen[static_cast<std::size_t>(t)] = t < first || t >= end;
  order.resize(std::min(order.size(), static_cast<std::size_t>(chosen)));
  for (index_t t : order) seen[static_cast<std::size_t>(t)] = true;
  return seen;
}

}  // namespace attend::inline ATTEND_TARGET::reference
