// SPDX-License-Identifier: BSD-3-Clause
// Attention with decoupled embeddings by definition, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// [batch, target, representation dimension].
template <class T>
std::vector<double> decoupled_embedding_attention(tensor_view<T const, 3> target_attention,
                                                  tensor_view<T const, 3> history_attention,
                                                  tensor_view<T const, 3> target_representation,
                                                  tensor_view<T const, 3> history_representation, index_t top) {
  std::vector<double> output;
  for (index_t b = 0; b < target_attention.extent(0); ++b)
    for (index_t t = 0; t < target_attention.extent(1); ++t) {
      std::vector<double> score;
      for (index_t j = 0; j < history_attention.extent(1); ++j) {
        double s = 0;
        for (index_t c = 0; c < target_attention.extent(2); ++c)
          s += static_cast<double>(target_attention(b, t, c)) * static_cast<double>(history_attention(b, j, c));
        score.push_back(s / std::sqrt(static_cast<double>(target_attention.extent(2))));
      }
      std::vector<std::size_t> order(score.size());
      std::iota(order.begin(), order.end(), std::size_t{0});
      std::stable_sort(order.begin(), order.end(), [&](auto x, auto y) { return score[x] > score[y]; });
      order.resize(std::min(order.size(), static_cast<std::size_t>(top)));
      double weight_sum = 0;
      for (std::size_t j : order) weight_sum += std::exp(score[j]);
      for (index_t c = 0; c < target_representation.extent(2); ++c) {
        double sum = 0;
        for (std::size_t j : order)
          sum += std::exp(score[j]) / weight_sum *
                 static_cast<double>(history_representation(b, static_cast<index_t>(j), c));
        output.push_back(sum * static_cast<double>(target_representation(b, t, c)));
      }
    }
  return output;
}

}  // namespace attend::inline ATTEND_TARGET::reference
