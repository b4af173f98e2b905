// SPDX-License-Identifier: BSD-3-Clause
// Routing attention and its k-means step by definition, in double, from the paper's formulae.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// Token i of a head, at length 1, times each centroid of the head.
template <class T, class C>
std::vector<double> centroid_products(tensor_view<T const, 4> tokens, index_t b, index_t h, index_t i,
                                      tensor_view<C const, 3> centroids, index_t centroid_head) {
  double square = 0;
  for (index_t c = 0; c < tokens.extent(3); ++c) square += std::pow(static_cast<double>(tokens(b, h, i, c)), 2);
  std::vector<double> products;
  for (index_t m = 0; m < centroids.extent(1); ++m) {
    double sum = 0;
    for (index_t c = 0; c < tokens.extent(3); ++c)
      sum += static_cast<double>(tokens(b, h, i, c)) * static_cast<double>(centroids(centroid_head, m, c));
    products.push_back(square > 0 ? sum / std::sqrt(square) : 0);
  }
  return products;
}

/// [batch, head, query, value dimension].
template <class T, class C>
std::vector<double> routing_attention(tensor_view<T const, 4> query, tensor_view<T const, 4> key,
                                      tensor_view<T const, 4> value, tensor_view<C const, 3> centroids, index_t most,
                                      bool causal) {
  std::vector<double> output;
  index_t const queries = query.extent(2), keys = key.extent(2), heads = query.extent(1);
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < heads; ++h) {
      index_t const hk = h / (heads / key.extent(1)), hv = h / (heads / value.extent(1));
      auto const best = [&](tensor_view<T const, 4> tokens, index_t head, index_t cluster) {
        std::vector<double> like;
        for (index_t i = 0; i < tokens.extent(2); ++i)
          like.push_back(centroid_products<T, C>(tokens, b, head, i, centroids, h)[static_cast<std::size_t>(cluster)]);
        std::vector<index_t> order(like.size());
        std::iota(order.begin(), order.end(), index_t{0});
        std::stable_sort(order.begin(), order.end(), [&](index_t x, index_t y) {
          return like[static_cast<std::size_t>(x)] > like[static_cast<std::size_t>(y)];
        });
        order.resize(std::min(order.size(), static_cast<std::size_t>(most)));
        return order;
      };
      std::vector<std::vector<double>> sums(static_cast<std::size_t>(queries),
                                            std::vector<double>(static_cast<std::size_t>(value.extent(3)), 0.0));
      std::vector<double> times(static_cast<std::size_t>(queries), 0.0);
      for (index_t m = 0; m < centroids.extent(1); ++m) {
        auto const chosen_keys = best(key, hk, m);
        for (index_t i : best(query, h, m)) {
          std::vector<double> numerator(static_cast<std::size_t>(value.extent(3)), 0.0);
          double denominator = 0;
          for (index_t j : chosen_keys) {
            if (causal && j > i + keys - queries) continue;
            double s = 0;
            for (index_t c = 0; c < key.extent(3); ++c)
              s += static_cast<double>(query(b, h, i, c)) * static_cast<double>(key(b, hk, j, c));
            double const weight = std::exp(s / std::sqrt(static_cast<double>(key.extent(3))));
            denominator += weight;
            for (std::size_t c = 0; c < numerator.size(); ++c)
              numerator[c] += weight * static_cast<double>(value(b, hv, j, static_cast<index_t>(c)));
          }
          times[static_cast<std::size_t>(i)] += 1;
          for (std::size_t c = 0; c < numerator.size() && denominator > 0; ++c)
            sums[static_cast<std::size_t>(i)][c] += numerator[c] / denominator;
        }
      }
      for (std::size_t i = 0; i < sums.size(); ++i)
        for (double x : sums[i]) output.push_back(times[i] > 0 ? x / times[i] : 0);
    }
  return output;
}

/// The centroids after a step, [head, cluster, dimension].
template <class T, class C>
std::vector<double> updated_centroids(tensor_view<C const, 3> centroids, tensor_view<T const, 4> query,
                                      tensor_view<T const, 4> key, double decay) {
  std::vector<double> result;
  for (index_t h = 0; h < centroids.extent(0); ++h) {
    auto const at = [&](index_t m, index_t c) { return static_cast<std::size_t>(m * centroids.extent(2) + c); };
    std::vector<double> sums(static_cast<std::size_t>(centroids.extent(1) * centroids.extent(2)), 0.0);
    auto const add = [&](tensor_view<T const, 4> tokens, index_t b, index_t head) {
      for (index_t i = 0; i < tokens.extent(2); ++i) {
        auto const products = centroid_products<T, C>(tokens, b, head, i, centroids, h);
        index_t const nearest = std::max_element(products.begin(), products.end()) - products.begin();
        double length = 0;
        for (index_t c = 0; c < tokens.extent(3); ++c)
          length += std::pow(static_cast<double>(tokens(b, head, i, c)), 2);
        for (index_t c = 0; c < tokens.extent(3); ++c)
          sums[at(nearest, c)] += static_cast<double>(tokens(b, head, i, c)) / std::sqrt(length);
      }
    };
    for (index_t b = 0; b < query.extent(0); ++b) {
      add(query, b, h);
      add(key, b, h / (query.extent(1) / key.extent(1)));
    }
    for (index_t m = 0; m < centroids.extent(1); ++m) {
      double length = 0;
      for (index_t c = 0; c < centroids.extent(2); ++c) {
        double& x = sums[at(m, c)];
        x = decay * static_cast<double>(centroids(h, m, c)) + (1 - decay) / 2 * x;
        length += x * x;
      }
      for (index_t c = 0; c < centroids.extent(2); ++c) result.push_back(sums[at(m, c)] / std::sqrt(length));
    }
  }
  return result;
}

}  // namespace attend::inline ATTEND_TARGET::reference
