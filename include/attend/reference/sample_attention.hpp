// SPDX-License-Identifier: BSD-3-Clause
// SampleAttention by definition: who sees whom, for reference::softmax_attention. Written from the paper's formulae, in
// double.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>

#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// Each head's query at position p sees key j <= p within the last `window`, or among the fewest columns that hold a
/// fraction `weight_sum` of the causal weights of queries n - 1, n - 1 - stride, ..., `most` of them at most.
template <class T>
visible_function sampled_columns(tensor_view<T const, 4> query, tensor_view<T const, 4> key, index_t stride,
                                 double weight_sum, index_t window, index_t most) {
  options causal;
  causal.visible = causal_bottom_right();
  result const all = softmax_attention<T>(query, key, key, causal);
  auto chosen = std::make_shared<std::vector<bool>>();
  for (index_t b = 0; b < all.batches; ++b)
    for (index_t h = 0; h < all.heads; ++h) {
      std::vector<double> column(static_cast<std::size_t>(all.keys), 0.0);
      for (index_t i = all.queries - 1; i >= 0; i -= stride)
        for (std::size_t j = 0; j < column.size(); ++j)
          column[j] += all.weights[static_cast<std::size_t>((b * all.heads + h) * all.queries + i) * column.size() + j];
      std::vector<std::size_t> order(column.size());
      std::iota(order.begin(), order.end(), std::size_t{0});
      std::stable_sort(order.begin(), order.end(), [&](auto x, auto y) { return column[x] > column[y]; });
      double const total = std::accumulate(column.begin(), column.end(), 0.0);
      std::vector<bool> chosen_column(column.size(), false);
      double kept = 0;
      for (std::size_t c = 0;
           c < order.size() && c < static_cast<std::size_t>(most) && (weight_sum >= 1 || kept < weight_sum * total);
           ++c) {
        kept += column[order[c]];
        chosen_column[order[c]] = true;
      }
      chosen->insert(chosen->end(), chosen_column.begin(), chosen_column.end());
    }
  index_t const heads = all.heads;
  return [=](place const& at) {
    return at.key <= at.position() &&
           (at.position() - at.key < window ||
            (*chosen)[static_cast<std::size_t>((at.batch * heads + at.head) * at.keys + at.key)]);
  };
}

}  // namespace attend::inline ATTEND_TARGET::reference
