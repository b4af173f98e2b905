// SPDX-License-Identifier: BSD-3-Clause
// Landmark attention by definition: for the last token of a sequence, a grouped softmax over all blocks, or over those
// of the largest landmark logits; and for a whole prompt, over all blocks. In double, weight by weight.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// output [batch][head][value dimension] of the last query; blocks of `block` tokens of which the last is the landmark.
template <class T>
std::vector<double> landmark_attention(tensor_view<T const, 4> query, tensor_view<T const, 4> key,
                                       tensor_view<T const, 4> value, index_t block, index_t chosen) {
  std::vector<double> output;
  index_t const tokens = key.extent(2), own = (tokens - 1) / block, dimension = query.extent(3);
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < query.extent(1); ++h) {
      index_t const shared = h / (query.extent(1) / key.extent(1));
      std::vector<double> weight;
      for (index_t t = 0; t < tokens; ++t) {
        double logit = 0;
        for (index_t c = 0; c < dimension; ++c)
          logit += static_cast<double>(query(b, h, 0, c)) * static_cast<double>(key(b, shared, t, c));
        weight.push_back(std::exp(logit / std::sqrt(static_cast<double>(dimension))));
      }
      auto const at = [&](index_t t) -> double& { return weight[static_cast<std::size_t>(t)]; };
      std::vector<index_t> blocks;
      for (index_t p = 0; p < own; ++p) blocks.push_back(p);
      std::stable_sort(blocks.begin(), blocks.end(),
                       [&](index_t x, index_t y) { return at(x * block + block - 1) > at(y * block + block - 1); });
      blocks.resize(std::min(blocks.size(), static_cast<std::size_t>(chosen)));
      double outer = 0;
      std::vector<double> p(static_cast<std::size_t>(tokens), 0.0);
      for (index_t t = own * block; t < std::min(own * block + block - 1, tokens); ++t) outer += at(t);
      for (index_t c : blocks) outer += at(c * block + block - 1);
      for (index_t t = own * block; t < std::min(own * block + block - 1, tokens); ++t)
        p[static_cast<std::size_t>(t)] = at(t) / outer;
      for (index_t c : blocks) {
        double inner = 0;
        for (index_t t = c * block; t < c * block + block - 1; ++t) inner += at(t);
        for (index_t t = c * block; t < c * block + block - 1; ++t)
          p[static_cast<std::size_t>(t)] = at(c * block + block - 1) / outer * at(t) / inner;
      }
      for (index_t c = 0; c < value.extent(3); ++c) {
        double sum = 0;
        for (index_t t = 0; t < tokens; ++t)
          if (double const seen = p[static_cast<std::size_t>(t)]; seen > 0)
            sum += seen * static_cast<double>(value(b, shared, t, c));
        output.push_back(sum);
      }
    }
  return output;
}

struct landmark_result {
  std::vector<double> output, log_sum_exp;
};

/// output [batch][head][query][value dimension], log_sum_exp [batch][head][query] of the query's own group. Each key up
/// to the query is in a group: tokens in their block's, landmarks of other blocks in the query's own, the landmark of
/// the query's own block in none. A softmax for each group; then a token of another group is weighed by its landmark.
template <class T>
landmark_result landmark_prompt_attention(tensor_view<T const, 4> query, tensor_view<T const, 4> key,
                                          tensor_view<T const, 4> value, index_t block) {
  landmark_result result;
  index_t const queries = query.extent(2), keys = key.extent(2), heads = query.extent(1), dimension = query.extent(3);
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < queries; ++i) {
        index_t const position = i + keys - queries, own = position < 0 ? 0 : position / block;
        auto const is_landmark = [&](index_t j) { return j % block == block - 1; };
        auto const group = [&](index_t j) { return is_landmark(j) ? (j / block == own ? -1 : own) : j / block; };
        std::vector<double> weight;
        std::map<index_t, double> total;
        for (index_t j = 0; j <= position; ++j) {
          double logit = 0;
          for (index_t c = 0; c < dimension; ++c)
            logit +=
                static_cast<double>(query(b, h, i, c)) * static_cast<double>(key(b, h / (heads / key.extent(1)), j, c));
          weight.push_back(std::exp(logit / std::sqrt(static_cast<double>(dimension))));
          total[group(j)] += weight.back();
        }
        auto const softmax = [&](index_t j) { return weight[static_cast<std::size_t>(j)] / total[group(j)]; };
        result.log_sum_exp.push_back(std::log(total[own]));
        for (index_t c = 0; c < value.extent(3); ++c) {
          double sum = 0;
          for (index_t j = 0; j <= position; ++j) {
            if (is_landmark(j)) continue;
            double const gate = group(j) == own ? 1 : softmax(j / block * block + block - 1);
            sum += gate * softmax(j) * static_cast<double>(value(b, h / (heads / value.extent(1)), j, c));
          }
          result.output.push_back(sum);
        }
      }
  return result;
}

}  // namespace attend::inline ATTEND_TARGET::reference
