// SPDX-License-Identifier: BSD-3-Clause
// SeerAttention's gate by definition, in double: the list of blocks of each block of queries.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::reference {

struct gate_sizes {
  index_t block, top;
  double threshold, base;  // of the rotary frequencies, half-split, of all gate channels
};

template <class T, class W>
std::vector<index_t> gated_blocks(tensor_view<T const, 4> query, tensor_view<T const, 4> key,
                                  tensor_view<W const, 3> query_weight, tensor_view<W const, 3> key_weight, index_t b,
                                  index_t h, index_t block, gate_sizes const& with) {
  index_t const shift = key.extent(2) - query.extent(2), dimension = query.extent(3), gate = query_weight.extent(2);
  index_t const hk = h / (query.extent(1) / key.extent(1));
  auto const rotated = [&](std::vector<double> const& pooled, tensor_view<W const, 3> weight, index_t head,
                           index_t position) {
    std::vector<double> row(static_cast<std::size_t>(gate), 0.0);
    for (index_t g = 0; g < gate; ++g)
      for (std::size_t c = 0; c < pooled.size(); ++c)
        row[static_cast<std::size_t>(g)] += pooled[c] * static_cast<double>(weight(head, static_cast<index_t>(c), g));
    auto const half = static_cast<std::size_t>(gate / 2);
    for (std::size_t i = 0; i < half; ++i) {
      double const angle = static_cast<double>(position) *
                           std::pow(with.base, -2.0 * static_cast<double>(i) / static_cast<double>(gate));
      double const x = row[i], y = row[half + i];
      row[i] = x * std::cos(angle) - y * std::sin(angle);
      row[half + i] = x * std::sin(angle) + y * std::cos(angle);
    }
    return row;
  };
  index_t const first = block * with.block, last = std::min(first + with.block, query.extent(2));
  if (last - 1 + shift < 0) return {};
  std::vector<double> mean(static_cast<std::size_t>(dimension), 0.0);
  for (index_t i = first; i < last; ++i)
    for (index_t c = 0; c < dimension; ++c)
      mean[static_cast<std::size_t>(c)] += static_cast<double>(query(b, h, i, c)) / static_cast<double>(last - first);
  auto const own_query = rotated(mean, query_weight, h, first + shift);

  index_t const own = std::max<index_t>(first + shift, 0) / with.block, end = (last - 1 + shift) / with.block + 1;
  std::vector<double> gates;
  double weight_sum = 0;
  for (index_t j = 0; j < end; ++j) {
    std::vector<double> most, least, average;
    index_t const to = std::min((j + 1) * with.block, key.extent(2));
    for (index_t c = 0; c < dimension; ++c) {
      std::vector<double> column;
      for (index_t t = j * with.block; t < to; ++t) column.push_back(static_cast<double>(key(b, hk, t, c)));
      most.push_back(*std::max_element(column.begin(), column.end()));
      least.push_back(*std::min_element(column.begin(), column.end()));
      average.push_back(std::accumulate(column.begin(), column.end(), 0.0) / static_cast<double>(column.size()));
    }
    most.insert(most.end(), least.begin(), least.end());
    most.insert(most.end(), average.begin(), average.end());
    auto const own_key = rotated(most, key_weight, hk, j * with.block);
    double const logit = std::inner_product(own_key.begin(), own_key.end(), own_query.begin(), 0.0);
    gates.push_back(std::exp(logit / std::sqrt(static_cast<double>(gate))));
    weight_sum += gates.back();
  }
  std::vector<index_t> list, earlier(static_cast<std::size_t>(own));
  std::iota(earlier.begin(), earlier.end(), index_t{0});
  if (with.top > 0) {
    std::stable_sort(earlier.begin(), earlier.end(), [&](index_t x, index_t y) {
      return gates[static_cast<std::size_t>(x)] > gates[static_cast<std::size_t>(y)];
    });
    auto const left = static_cast<std::size_t>(std::max<index_t>(with.top - (end - own), 0));
    earlier.resize(std::min(earlier.size(), left));
    std::sort(earlier.begin(), earlier.end());
    list = earlier;
  } else {
    for (index_t j : earlier)
      if (gates[static_cast<std::size_t>(j)] > with.threshold * weight_sum) list.push_back(j);
  }
  for (index_t j = own; j < end; ++j) list.push_back(j);
  return list;
}

}  // namespace attend::inline ATTEND_TARGET::reference
