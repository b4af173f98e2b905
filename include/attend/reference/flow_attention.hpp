// SPDX-License-Identifier: BSD-3-Clause
// Flow-Attention by definition, in double: the flows of all queries and keys, or, causal, of the first t at each t, are
// summed up anew for each, and the last step is over all pairs.
//
// Haixu Wu, Jialong Wu, Jiehui Xu, Jianmin Wang, Mingsheng Long: Flowformer: Linearizing Transformers with Conservation
// Flows, 2022.
#pragma once

#include "kernel_attention.hpp"

namespace attend::inline ATTEND_TARGET::reference {

namespace detail {

constexpr double flow_epsilon = 1e-6;

inline double flow_product(row const& a, row const& b) {
  double sum = 0;
  for (std::size_t c = 0; c < a.size(); ++c) sum += (a[c] + flow_epsilon) * (b[c] + flow_epsilon);
  return sum;
}

inline row flow_sum(std::vector<row> const& rows, std::vector<double> const& factor, std::size_t count,
                    std::size_t dimension) {
  row sum(dimension);
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t c = 0; c < sum.size(); ++c) sum[c] += rows[i][c] * (factor.empty() ? 1.0 : factor[i]);
  return sum;
}

}  // namespace detail

/// One head: rows of sinks (queries), sources (keys) and values.
inline std::vector<row> flow_attention(std::vector<row> sinks, std::vector<row> sources, std::vector<row> const& values,
                                       std::size_t columns, bool causal) {
  using detail::flow_product;
  std::size_t const dimension = sinks.empty() ? sources.empty() ? 0 : sources[0].size() : sinks[0].size();
  auto const flow_sum = [&](std::vector<row> const& rows, std::vector<double> const& factor, std::size_t count) {
    return detail::flow_sum(rows, factor, count, dimension);
  };
  auto const logistic = [](double x) { return 1 / (1 + std::exp(-x)); };
  for (auto* rows : {&sinks, &sources})
    for (row& r : *rows)
      for (double& x : r) x = logistic(x);
  std::size_t const queries = sinks.size(), keys = sources.size();
  auto const seen = [&](std::size_t t, std::size_t all) { return causal ? t + 1 : all; };
  auto const normal = [&](std::size_t t) { return causal ? static_cast<double>(t + 1) : 1.0; };

  std::vector<double> incoming, outgoing, allocation, exponents, competition;
  for (std::size_t i = 0; i < queries; ++i)
    incoming.push_back(normal(i) / flow_product(sinks[i], flow_sum(sources, {}, seen(i, keys))));
  for (std::size_t j = 0; j < keys; ++j)
    outgoing.push_back(normal(j) / flow_product(sources[j], flow_sum(sinks, {}, seen(j, queries))));
  for (std::size_t i = 0; i < queries; ++i) {
    double const ratio = causal ? 1.0 : static_cast<double>(queries) / static_cast<double>(keys);
    allocation.push_back(
        logistic(ratio * flow_product(sinks[i], flow_sum(sources, outgoing, seen(i, keys))) / normal(i)));
  }
  for (std::size_t j = 0; j < keys; ++j) {
    double const conserved = flow_product(sources[j], flow_sum(sinks, incoming, seen(j, queries))) / normal(j);
    exponents.push_back(std::exp(std::min(1.0, std::max(-1.0, conserved))));
  }
  for (std::size_t j = 0; j < keys; ++j) {
    double sum = 0;
    for (std::size_t l = 0; l < seen(j, keys); ++l) sum += exponents[l];
    competition.push_back(static_cast<double>(seen(j, keys)) * exponents[j] / sum);
  }
  std::vector<row> output;
  for (std::size_t i = 0; i < queries; ++i) {
    row o(columns);
    for (std::size_t j = 0; j < seen(i, keys); ++j)
      for (std::size_t c = 0; c < columns; ++c)
        o[c] += allocation[i] * incoming[i] / normal(i) * dot(sinks[i], sources[j]) * competition[j] * values[j][c];
    output.push_back(o);
  }
  return output;
}

}  // namespace attend::inline ATTEND_TARGET::reference
