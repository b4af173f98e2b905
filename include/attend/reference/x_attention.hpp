// SPDX-License-Identifier: BSD-3-Clause
// XAttention's choice of blocks by definition, in double: logits are summed up along antidiagonals, one by one.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>

#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET::reference {

struct antidiagonal_sizes {
  index_t block, stride;
  double share;
};

/// The list of key blocks that a block of queries of a head sees; of the keys the first `size` are there, and the last
/// query is the last of them.
template <class T>
std::vector<index_t> antidiagonal_blocks(tensor_view<T const, 4> query, tensor_view<T const, 4> key, index_t size,
                                         index_t b, index_t h, index_t block, antidiagonal_sizes const& with) {
  index_t const queries = query.extent(2), shift = size - queries, group = query.extent(1) / key.extent(1);
  double const scale = 1 / std::sqrt(static_cast<double>(query.extent(3)));
  auto const logit = [&](index_t i, index_t j) {
    double sum = 0;
    if (i >= queries || j >= size) return sum;
    for (index_t c = 0; c < query.extent(3); ++c)
      sum += static_cast<double>(query(b, h, i, c)) * static_cast<double>(key(b, h / group, j, c));
    return sum * scale;
  };
  index_t const first = block * with.block, last = std::min(first + with.block, queries) - 1;
  std::vector<index_t> list;
  if (last + shift < 0) return list;
  index_t const blocks = (last + shift) / with.block + 1;
  std::vector<double> mass(static_cast<std::size_t>(blocks), 0);
  for (index_t i = first; i <= last; i += with.stride) {
    // The squares of the row that are reached, and the sum of each on its antidiagonal.
    std::vector<double> sums;
    for (index_t j = 0; j < size && j <= i + with.stride - 1 + shift; j += with.stride) {
      double sum = 0;
      for (index_t s = 0; s < with.stride; ++s) sum += logit(i + with.stride - 1 - s, j + s);
      sums.push_back(sum / static_cast<double>(with.stride));
    }
    if (sums.empty()) continue;
    double const most = *std::max_element(sums.begin(), sums.end());
    double total = 0;
    for (double& sum : sums) total += sum = std::exp(sum - most);
    for (std::size_t j = 0; j < sums.size(); ++j)
      mass[j * static_cast<std::size_t>(with.stride) / static_cast<std::size_t>(with.block)] += sums[j] / total;
  }
  index_t const own = std::max<index_t>(first + shift, 0) / with.block;
  std::vector<index_t> others(static_cast<std::size_t>(blocks));
  std::iota(others.begin(), others.end(), index_t{0});
  double const all = std::accumulate(mass.begin(), mass.end(), 0.0);
  double held = 0;
  std::stable_sort(others.begin(), others.end(), [&](index_t x, index_t y) {
    bool const x_kept = x == 0 || x >= own, y_kept = y == 0 || y >= own;
    return x_kept != y_kept ? x_kept : mass[static_cast<std::size_t>(x)] > mass[static_cast<std::size_t>(y)];
  });
  for (index_t const one : others) {
    if (one != 0 && one < own && with.share < 1 && held >= with.share * all) break;
    list.push_back(one);
    held += mass[static_cast<std::size_t>(one)];
  }
  std::sort(list.begin(), list.end());
  return list;
}

template <class T>
visible_function by_antidiagonals(tensor_view<T const, 4> query, tensor_view<T const, 4> key,
                                  antidiagonal_sizes const& with) {
  index_t const heads = query.extent(1), blocks = (query.extent(2) + with.block - 1) / with.block;
  auto lists = std::make_shared<std::vector<std::vector<index_t>>>();
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < heads; ++h)
      for (index_t block = 0; block < blocks; ++block)
        lists->push_back(antidiagonal_blocks<T>(query, key, key.extent(2), b, h, block, with));
  return [=](place const& at) {
    auto const& list =
        (*lists)[static_cast<std::size_t>((at.batch * heads + at.head) * blocks + at.query / with.block)];
    return at.key <= at.position() && std::binary_search(list.begin(), list.end(), at.key / with.block);
  };
}

}  // namespace attend::inline ATTEND_TARGET::reference
