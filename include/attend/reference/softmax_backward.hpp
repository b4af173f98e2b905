// SPDX-License-Identifier: BSD-3-Clause
// The gradients of softmax attention and its relatives by definition, pair by pair, in double.
//
//   g_ij = do_i . v_j
//   softmax       e_ij = p_ij (g_ij - sum_j p_ij g_ij)
//   sigmoid       e_ij = p_ij (1 - p_ij) g_ij
//   relu          e_ij = g_ij where s_ij > 0
//   dq_i = scale sum_j e_ij s'_ij k_j,   dk_j = scale sum_i e_ij s'_ij q_i,   dv_j = sum_i p_ij do_i
//
// with s' the derivative of the scores, which are plain functions: a difference quotient of each is taken.
//
// Cost 10 * dimension operations for each pair.
#pragma once

#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// Gradients, each of the shape of its tensor, and for each of them the largest sum of the magnitudes of the terms that
/// an element is the sum of.
struct gradients {
  std::vector<double> query, key, value;
  double query_terms = 0, key_terms = 0, value_terms = 0;
};

template <class T>
gradients softmax_backward(tensor_view<T const, 4> query, tensor_view<T const, 4> key, tensor_view<T const, 4> value,
                           tensor_view<T const, 4> of_output, options const& with = {}) {
  double const hidden = -std::numeric_limits<double>::infinity();
  index_t const batches = query.extent(0), heads = query.extent(1), dimension = query.extent(3);
  index_t const columns = value.extent(3);
  double const scale = with.scale != 0 ? with.scale : dimension > 0 ? 1 / std::sqrt(static_cast<double>(dimension)) : 1;
  auto const size = [](auto const& tensor) {
    return static_cast<std::size_t>(tensor.extent(0) * tensor.extent(1) * tensor.extent(2) * tensor.extent(3));
  };
  gradients sum{std::vector<double>(size(query)), std::vector<double>(size(key)), std::vector<double>(size(value))};
  gradients terms = sum;
  auto const at = [](auto const& tensor, index_t b, index_t h, index_t t, index_t c) {
    return static_cast<std::size_t>(((b * tensor.extent(1) + h) * tensor.extent(2) + t) * tensor.extent(3) + c);
  };

  for (index_t b = 0; b < batches; ++b)
    for (index_t h = 0; h < heads; ++h) {
      index_t const hk = h / (heads / key.extent(1)), hv = h / (heads / value.extent(1));
      index_t const queries = with.query_length ? with.query_length(b) : query.extent(2);
      index_t const keys = with.key_length ? with.key_length(b) : key.extent(2);
      for (index_t i = 0; i < queries; ++i) {
        place const row{b, h, i, 0, queries, keys};
        std::vector<double> const logit = logits_of<T>(query, key, row, scale, with);
        std::vector<double> const weight = weights_of(logit, with.sink ? with.sink(h) : hidden, with).weight;
        std::vector<double> g(weight.size(), 0.0);
        double delta = 0, delta_terms = 0;
        for (index_t j = 0; j < keys; ++j) {
          auto const n = static_cast<std::size_t>(j);
          if (logit[n] == hidden) continue;
          for (index_t c = 0; c < columns; ++c)
            g[n] += static_cast<double>(of_output(b, h, i, c)) * static_cast<double>(value(b, hv, j, c));
          if (with.settings == normalizer::softmax) {
            delta += weight[n] * g[n];
            delta_terms += weight[n] * std::abs(g[n]);
          }
        }
        for (index_t j = 0; j < keys; ++j) {
          auto const n = static_cast<std::size_t>(j);
          if (logit[n] == hidden) continue;
          double const p = weight[n];
          double rate = with.settings == normalizer::softmax   ? p
                        : with.settings == normalizer::sigmoid ? p * (1 - p)
                                                               : static_cast<double>(logit[n] > 0);
          double s = 0;
          for (index_t c = 0; c < dimension; ++c)
            s += static_cast<double>(query(b, h, i, c)) * static_cast<double>(key(b, hk, j, c));
          s *= scale;
          for (score_function const& score : with.scores) {
            double const step = 1e-6 * std::max(1.0, std::abs(s));
            place const here{b, h, i, j, queries, keys};
            rate *= (score(s + step, here) - score(s - step, here)) / (2 * step);
            s = score(s, here);
          }
          double const e = rate * (g[n] - delta), e_terms = std::abs(rate) * (std::abs(g[n]) + delta_terms);
          for (index_t c = 0; c < dimension; ++c) {
            double const q = scale * static_cast<double>(query(b, h, i, c));
            double const k = scale * static_cast<double>(key(b, hk, j, c));
            sum.query[at(query, b, h, i, c)] += e * k;
            sum.key[at(key, b, hk, j, c)] += e * q;
            terms.query[at(query, b, h, i, c)] += e_terms * std::abs(k);
            terms.key[at(key, b, hk, j, c)] += e_terms * std::abs(q);
          }
          for (index_t c = 0; c < columns; ++c) {
            double const x = static_cast<double>(of_output(b, h, i, c));
            sum.value[at(value, b, hv, j, c)] += p * x;
            terms.value[at(value, b, hv, j, c)] += p * std::abs(x);
          }
        }
      }
    }
  for (double x : terms.query) sum.query_terms = std::max(sum.query_terms, x);
  for (double x : terms.key) sum.key_terms = std::max(sum.key_terms, x);
  for (double x : terms.value) sum.value_terms = std::max(sum.value_terms, x);
  return sum;
}

}  // namespace attend::inline ATTEND_TARGET::reference
