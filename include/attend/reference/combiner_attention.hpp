// SPDX-License-Identifier: BSD-3-Clause
// Combiner by definition, in double: each query has keys that it sees directly, and regions. Written from the paper's
// formula.
#pragma once

#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// What a query sees: tokens, and regions that are lists of tokens.
struct combiner_view {
  std::vector<index_t> direct;
  std::vector<std::vector<index_t>> regions;
};

inline std::vector<index_t> tokens_from(index_t first, index_t last, index_t step = 1) {
  std::vector<index_t> tokens;
  for (index_t j = first; j < last; j += step) tokens.push_back(j);
  return tokens;
}

inline combiner_view combiner_fixed(index_t i, index_t tokens, index_t segment, bool causal) {
  combiner_view view;
  for (index_t first = 0; first < tokens; first += segment) {
    index_t const last = std::min(first + segment, tokens);
    if (first <= i && i < last)
      view.direct = tokens_from(first, causal ? i + 1 : last);
    else if (!causal || last <= i)
      view.regions.push_back(tokens_from(first, last));
  }
  return view;
}
inline combiner_view combiner_logsparse(index_t i) {
  combiner_view view{{i}, {}};
  for (index_t end = i; end > 0;) {
    index_t const length = end & -end;
    view.regions.push_back(tokens_from(end - length, end));
    end -= length;
  }
  return view;
}
inline combiner_view combiner_axial(index_t i, index_t columns) {
  combiner_view view{tokens_from(i / columns * columns, i + 1), {}};
  for (index_t x = 0; x < columns && i >= columns; ++x)
    view.regions.push_back(tokens_from(x, i / columns * columns, columns));
  return view;
}

struct combiner_result {
  std::vector<double> output, log_sum_exp;
};

template <class T>
combiner_result combiner_attention(tensor_view<T const, 4> query, tensor_view<T const, 4> key,
                                   tensor_view<T const, 4> value, std::function<combiner_view(index_t)> const& seen) {
  combiner_result result;
  index_t const heads = query.extent(1), dimension = query.extent(3);
  double const scale = 1 / std::sqrt(static_cast<double>(dimension));
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < query.extent(2); ++i) {
        index_t const hk = h / (heads / key.extent(1)), hv = h / (heads / value.extent(1));
        std::vector<double> numerator(static_cast<std::size_t>(value.extent(3)), 0.0);
        double denominator = 0;
        auto const add = [&](std::vector<double> const& k, std::vector<double> const& v) {
          double s = 0;
          for (index_t c = 0; c < dimension; ++c)
            s += static_cast<double>(query(b, h, i, c)) * k[static_cast<std::size_t>(c)];
          double const weight = std::exp(scale * s);
          denominator += weight;
          for (std::size_t c = 0; c < v.size(); ++c) numerator[c] += weight * v[c];
        };
        auto const row = [&](tensor_view<T const, 4> x, index_t head, index_t j) {
          std::vector<double> elements;
          for (index_t c = 0; c < x.extent(3); ++c) elements.push_back(static_cast<double>(x(b, head, j, c)));
          return elements;
        };
        combiner_view const view = seen(i);
        for (index_t j : view.direct) add(row(key, hk, j), row(value, hv, j));
        for (auto const& region : view.regions) {
          auto pooled_query = row(query, h, region[0]), pooled_key = row(key, hk, region[0]);
          for (index_t j : region)
            for (std::size_t c = 0; c < pooled_key.size(); ++c) {
              pooled_query[c] = std::max(pooled_query[c], row(query, h, j)[c]);
              pooled_key[c] = std::max(pooled_key[c], row(key, hk, j)[c]);
            }
          std::vector<double> mean(numerator.size(), 0.0);
          double weight_sum = 0;
          for (index_t j : region) {
            auto const k = row(key, hk, j), v = row(value, hv, j);
            double const weight = std::exp(scale * std::inner_product(k.begin(), k.end(), pooled_query.begin(), 0.0));
            weight_sum += weight;
            for (std::size_t c = 0; c < v.size(); ++c) mean[c] += weight * v[c];
          }
          for (double& x : mean) x /= weight_sum;
          add(pooled_key, mean);
        }
        for (double x : numerator) result.output.push_back(x / denominator);
        result.log_sum_exp.push_back(std::log(denominator));
      }
  return result;
}

}  // namespace attend::inline ATTEND_TARGET::reference
