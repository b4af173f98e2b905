// SPDX-License-Identifier: BSD-3-Clause
// Infini-attention by definition, in double, one head: segment after segment, all pairs of a segment, and a memory.
//
//   o = g s(q)^T M / (s(q) . z + epsilon) + (1 - g) softmax attention within the segment        s(x) = elu(x) + 1
//   M <- M + sum_j s(k_j) w_j^T, z <- z + sum_j s(k_j)       w_j = v_j, or v_j - s(k_j)^T M / (s(k_j) . z + epsilon)
//
// Tsendsuren Munkhdalai, Manaal Faruqui, Siddharth Gopal: Leave No Context Behind: Efficient Infinite Context
// Transformers with Infini-attention, 2024.
#pragma once

#include "kernel_attention.hpp"

namespace attend::inline ATTEND_TARGET::reference {

struct infini_state {
  std::vector<row> memory;  // [dimension][value dimension]
  row sum;
};

struct infini_rows {
  std::vector<row> query, key, memory_query, memory_key, value;
};

inline std::vector<row> infini_attention(infini_rows const& in, infini_state& state, std::size_t segment, double gate,
                                         double scale, bool delta, double epsilon = 1e-6) {
  auto const positive = [](row x) {
    for (double& e : x) e = e > 0 ? e + 1 : std::exp(e);
    return x;
  };
  auto const retrieve = [&](infini_state const& from, row const& features, std::size_t columns) {
    row result(columns);
    for (std::size_t f = 0; f < features.size(); ++f)
      for (std::size_t c = 0; c < columns; ++c)
        result[c] += features[f] * from.memory[f][c] / (dot(features, from.sum) + epsilon);
    return result;
  };
  double const g = 1 / (1 + std::exp(-gate));
  std::vector<row> output;
  for (std::size_t first = 0; first < in.query.size(); first += segment) {
    std::size_t const last = std::min(in.query.size(), first + segment), columns = in.value[0].size();
    infini_state const before = state;
    for (std::size_t i = first; i < last; ++i) {
      row o = retrieve(before, positive(in.memory_query[i]), columns);
      for (double& x : o) x *= g;
      double sum = 0;
      for (std::size_t j = first; j <= i; ++j) sum += std::exp(scale * dot(in.query[i], in.key[j]));
      for (std::size_t j = first; j <= i; ++j)
        for (std::size_t c = 0; c < columns; ++c)
          o[c] += (1 - g) * std::exp(scale * dot(in.query[i], in.key[j])) / sum * in.value[j][c];
      output.push_back(o);
    }
    for (std::size_t j = first; j < last; ++j) {
      row const features = positive(in.memory_key[j]);
      row const known = delta ? retrieve(before, features, columns) : row(columns);
      for (std::size_t f = 0; f < features.size(); ++f) {
        state.sum[f] += features[f];
        for (std::size_t c = 0; c < columns; ++c) state.memory[f][c] += features[f] * (in.value[j][c] - known[c]);
      }
    }
  }
  return output;
}

}  // namespace attend::inline ATTEND_TARGET::reference
