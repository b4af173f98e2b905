// SPDX-License-Identifier: BSD-3-Clause
// Mixture of block attention by definition: who sees whom, for reference::softmax_attention. Written from the paper's
// formula, in double.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>

#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// Query i at position p sees key j <= p if j lies in the block of p or in one of the top - 1 earlier blocks whose mean
/// key has the largest product with q_i; the lower block where two are equal.
template <class T>
visible_function chosen_mixture(tensor_view<T const, 4> query, tensor_view<T const, 4> key, index_t block,
                                index_t top) {
  index_t const queries = query.extent(2), keys = key.extent(2), heads = query.extent(1);
  auto chosen = std::make_shared<std::vector<std::vector<index_t>>>();
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < queries; ++i) {
        index_t const position = i + keys - queries, own = position < 0 ? 0 : position / block;
        std::vector<double> gate;
        for (index_t earlier = 0; earlier < own; ++earlier) {
          double sum = 0;
          for (index_t j = earlier * block; j < (earlier + 1) * block; ++j)
            for (index_t c = 0; c < query.extent(3); ++c)
              sum += static_cast<double>(query(b, h, i, c)) *
                     static_cast<double>(key(b, h / (heads / key.extent(1)), j, c));
          gate.push_back(sum / static_cast<double>(block));
        }
        std::vector<index_t> order(gate.size());
        std::iota(order.begin(), order.end(), index_t{0});
        std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t c) {
          return gate[static_cast<std::size_t>(a)] > gate[static_cast<std::size_t>(c)];
        });
        order.resize(std::min(order.size(), static_cast<std::size_t>(top - 1)));
        order.push_back(own);
        chosen->push_back(order);
      }
  return [=](place const& at) {
    auto const& blocks = (*chosen)[static_cast<std::size_t>((at.batch * heads + at.head) * queries + at.query)];
    return at.key <= at.position() && std::find(blocks.begin(), blocks.end(), at.key / block) != blocks.end();
  };
}

}  // namespace attend::inline ATTEND_TARGET::reference
