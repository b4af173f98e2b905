// The SparseK operator by definition, in double: tau is found by halving an interval.
#pragma once

#include <algorithm>
#include <vector>

#include "../core/types.hpp"

namespace attend::reference {

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

}  // namespace attend::reference
