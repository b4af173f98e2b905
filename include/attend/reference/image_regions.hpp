// SPDX-License-Identifier: BSD-3-Clause
// Attention between the regions of images by definition, in double: BiFormer's routing, and the two forms of all-to-key
// attention. Written from the papers' formulae.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>

#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET::reference {

struct regions_of_image {
  index_t rows, columns, region_rows, region_columns;

  index_t count() const { return rows / region_rows * (columns / region_columns); }
  index_t region_of(index_t token) const {
    return token / columns / region_rows * (columns / region_columns) + token % columns / region_columns;
  }
  /// The place of a token in its region.
  index_t place_of(index_t token) const {
    return token / columns % region_rows * region_columns + token % columns % region_columns;
  }
  index_t area() const { return region_rows * region_columns; }
};

/// BiFormer: a query sees the tokens of the `top` regions whose mean keys, all heads together, have the largest product
/// with the mean query of its own region.
template <class T>
visible_function routed_regions(tensor_view<T const, 4> query, tensor_view<T const, 4> key, regions_of_image const& cut,
                                index_t top) {
  auto routed = std::make_shared<std::vector<std::vector<index_t>>>();
  auto const mean = [&](tensor_view<T const, 4> x, index_t b, index_t region, index_t h, index_t c) {
    double sum = 0;
    for (index_t j = 0; j < x.extent(2); ++j)
      if (cut.region_of(j) == region) sum += static_cast<double>(x(b, h, j, c));
    return sum / static_cast<double>(cut.area());
  };
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t r = 0; r < cut.count(); ++r) {
      std::vector<double> like(static_cast<std::size_t>(cut.count()), 0.0);
      for (index_t z = 0; z < cut.count(); ++z)
        for (index_t h = 0; h < query.extent(1); ++h)
          for (index_t c = 0; c < query.extent(3); ++c)
            like[static_cast<std::size_t>(z)] += mean(query, b, r, h, c) * mean(key, b, z, h, c);
      std::vector<index_t> order(like.size());
      std::iota(order.begin(), order.end(), index_t{0});
      std::stable_sort(order.begin(), order.end(), [&](index_t x, index_t y) {
        return like[static_cast<std::size_t>(x)] > like[static_cast<std::size_t>(y)];
      });
      order.resize(std::min(order.size(), static_cast<std::size_t>(top)));
      routed->push_back(order);
    }
  return [=](place const& at) {
    auto const& list = (*routed)[static_cast<std::size_t>(at.batch * cut.count() + cut.region_of(at.query))];
    return std::find(list.begin(), list.end(), cut.region_of(at.key)) != list.end();
  };
}

/// Progressive all-to-key attention: a query sees the region of the keys that is, token by token, most like its own.
template <class T>
visible_function likest_region(tensor_view<T const, 4> query, tensor_view<T const, 4> key,
                               regions_of_image const& of_query, regions_of_image const& of_key) {
  auto best = std::make_shared<std::vector<index_t>>();
  index_t const heads = query.extent(1);
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < heads; ++h)
      for (index_t x = 0; x < of_query.count(); ++x) {
        std::vector<double> like(static_cast<std::size_t>(of_key.count()), 0.0);
        for (index_t i = 0; i < query.extent(2); ++i)
          for (index_t j = 0; j < key.extent(2) && of_query.region_of(i) == x; ++j)
            if (of_query.place_of(i) == of_key.place_of(j))
              for (index_t c = 0; c < query.extent(3); ++c)
                like[static_cast<std::size_t>(of_key.region_of(j))] +=
                    static_cast<double>(query(b, h, i, c)) *
                    static_cast<double>(key(b, h / (heads / key.extent(1)), j, c));
        best->push_back(std::max_element(like.begin(), like.end()) - like.begin());
      }
  return [=](place const& at) {
    return of_key.region_of(at.key) ==
           (*best)[static_cast<std::size_t>((at.batch * heads + at.head) * of_query.count() +
                                            of_query.region_of(at.query))];
  };
}

/// Distributed all-to-key attention's key (or value, with the keys' weights) of each region: [batch, head, region,
/// dimension].
template <class T>
std::vector<double> gated_regions(tensor_view<T const, 4> key, tensor_view<T const, 4> pooled,
                                  regions_of_image const& cut, double alpha, double beta) {
  std::vector<double> result;
  for (index_t b = 0; b < key.extent(0); ++b)
    for (index_t h = 0; h < key.extent(1); ++h)
      for (index_t x = 0; x < cut.count(); ++x) {
        std::vector<index_t> tokens;
        for (index_t j = 0; j < key.extent(2); ++j)
          if (cut.region_of(j) == x) tokens.push_back(j);
        auto const area = static_cast<double>(tokens.size());
        auto const mean = [&](tensor_view<T const, 4> of, index_t c) {
          double sum = 0;
          for (index_t j : tokens) sum += static_cast<double>(of(b, h, j, c));
          return sum / area;
        };
        std::vector<double> weight;
        for (index_t j : tokens) {
          double product = 0;
          for (index_t c = 0; c < key.extent(3); ++c) product += mean(key, c) * static_cast<double>(key(b, h, j, c));
          weight.push_back(1 / (1 + std::exp(-(alpha * product + beta))));
        }
        for (index_t c = 0; c < pooled.extent(3); ++c) {
          double sum = mean(pooled, c);
          for (std::size_t y = 0; y < tokens.size(); ++y)
            sum += weight[y] * static_cast<double>(pooled(b, h, tokens[y], c));
          result.push_back(sum / (area + 1));
        }
      }
  return result;
}

}  // namespace attend::inline ATTEND_TARGET::reference
