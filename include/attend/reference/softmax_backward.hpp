// SPDX-License-Identifier: BSD-3-Clause
// The gradients of softmax attention and its relatives by definition, pair by pair, in double.
//
//   o_i = x_h sum_j p_ij g_ij y_j v_j                 gates x, gains of pairs g and of values y; 1 where there are none
//   c_ij = x_h g_ij y_j do_i . v_j,  delta_i = sum_j p_ij c_ij
//   softmax        e_ij = p_ij (c_ij - delta_i + dl_i)      dl_i the gradient of the log-sum-exp
//   sigmoid        e_ij = p_ij (1 - p_ij) c_ij
//   relu           e_ij = c_ij where s_ij > 0;  divided by n: that / n;  by the sum: (c_ij - delta_i) / (sum + epsilon)
//   dq_i = scale sum_j e_ij s'_ij k_j,   dk_j = scale sum_i e_ij s'_ij q_i,   dv_j = sum_i x_h p_ij g_ij y_j do_i
//   of the sink of head h: -sum_i exp(sink - lse_i) (delta_i - dl_i);  of a gate and a value's gain: by the first line
//
// with s' the derivative of the scores, which are plain functions: a difference quotient of each is taken.
//
// Cost 10 * dimension operations for each pair.
#pragma once

#include <algorithm>

#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// Gradients, each of the shape of its tensor, and for each of them the largest sum of the magnitudes of the terms that
/// an element is the sum of.
struct gradients {
  std::vector<double> query, key, value;
  double query_terms = 0, key_terms = 0, value_terms = 0;
  std::vector<double> sink, sink_terms;              // [head]
  std::vector<double> value_gain, head_gate;         // [batch, value head, key], [batch, head]
  double value_gain_terms = 0, head_gate_terms = 0;  // the largest of each
  /// For each score [batch, head, query, key]: the logit before it, and the gradient of the logit after it, with the
  /// magnitude of the terms of that.
  struct of_score {
    std::vector<double> before, after, terms;
  };
  std::vector<of_score> scores;
};

template <class T>
gradients softmax_backward(
    tensor_view<T const, 4> query, tensor_view<T const, 4> key, tensor_view<T const, 4> value,
    tensor_view<T const, 4> of_output, options const& with = {},
    std::function<double(index_t batch, index_t head, index_t query)> const& of_log_sum_exp = {}) {
  double const hidden = -std::numeric_limits<double>::infinity();
  index_t const batches = query.extent(0), heads = query.extent(1), dimension = query.extent(3);
  index_t const columns = value.extent(3);
  double const scale = with.scale != 0 ? with.scale : dimension > 0 ? 1 / std::sqrt(static_cast<double>(dimension)) : 1;
  auto const size = [](auto const& tensor) {
    return static_cast<std::size_t>(tensor.extent(0) * tensor.extent(1) * tensor.extent(2) * tensor.extent(3));
  };
  auto const many = [](index_t count) { return std::vector<double>(static_cast<std::size_t>(count)); };
  gradients sum;
  sum.query.resize(size(query));
  sum.key.resize(size(key));
  sum.value.resize(size(value));
  sum.sink = sum.sink_terms = many(heads);
  sum.value_gain = many(batches * value.extent(1) * key.extent(2));
  sum.head_gate = many(batches * heads);
  for (std::size_t n = 0; n < with.scores.size(); ++n) {
    auto const pairs = many(batches * heads * query.extent(2) * key.extent(2));
    sum.scores.push_back({pairs, pairs, pairs});
  }
  gradients terms = sum;
  auto const at = [](auto const& tensor, index_t b, index_t h, index_t t, index_t c) {
    return static_cast<std::size_t>(((b * tensor.extent(1) + h) * tensor.extent(2) + t) * tensor.extent(3) + c);
  };
  bool const normalized = with.settings == normalizer::softmax || with.settings == normalizer::relu_by_sum;

  for (index_t b = 0; b < batches; ++b)
    for (index_t h = 0; h < heads; ++h) {
      index_t const hk = h / (heads / key.extent(1)), hv = h / (heads / value.extent(1));
      index_t const queries = with.query_length ? with.query_length(b) : query.extent(2);
      index_t const keys = with.key_length ? with.key_length(b) : key.extent(2);
      double const gate = with.head_gate ? with.head_gate(b, h) : 1;
      if (gate == 0) continue;
      for (index_t i = 0; i < queries; ++i) {
        place const row{b, h, i, 0, queries, keys};
        std::vector<double> const logit = logits_of<T>(query, key, row, scale, with);
        row_weights const of_row = weights_of(logit, with.sink ? with.sink(h) : hidden, with);
        std::vector<double> const& weight = of_row.weight;
        double const given = of_log_sum_exp ? of_log_sum_exp(b, h, i) : 0;
        std::vector<double> change(weight.size(), 0.0);
        double delta = 0, delta_terms = 0, seen = 0, positive = 0;
        for (index_t j = 0; j < keys; ++j) {
          auto const n = static_cast<std::size_t>(j);
          if (logit[n] == hidden) continue;
          ++seen;
          positive += std::max(logit[n], 0.0);
          place const here{b, h, i, j, queries, keys};
          double const pair_gain = with.pair_gain ? with.pair_gain(here) : 1;
          double const value_gain = with.value_gain ? with.value_gain(b, hv, j) : 1;
          double product = 0;
          for (index_t c = 0; c < columns; ++c)
            product += static_cast<double>(of_output(b, h, i, c)) * static_cast<double>(value(b, hv, j, c));
          change[n] = gate * pair_gain * value_gain * product;
          delta += weight[n] * change[n];
          delta_terms += weight[n] * std::abs(change[n]);
          auto const in_keys = static_cast<std::size_t>((b * value.extent(1) + hv) * key.extent(2) + j);
          auto const in_heads = static_cast<std::size_t>(b * heads + h);
          sum.value_gain[in_keys] += gate * pair_gain * weight[n] * product;
          terms.value_gain[in_keys] += std::abs(gate * pair_gain * weight[n] * product);
          sum.head_gate[in_heads] += pair_gain * value_gain * weight[n] * product;
          terms.head_gate[in_heads] += std::abs(pair_gain * value_gain * weight[n] * product);
          for (index_t c = 0; c < columns; ++c) {
            double const x = gate * pair_gain * value_gain * weight[n] * static_cast<double>(of_output(b, h, i, c));
            sum.value[at(value, b, hv, j, c)] += x;
            terms.value[at(value, b, hv, j, c)] += std::abs(x);
          }
        }
        if (with.sink && of_row.log_sum_exp != hidden) {
          double const p = std::exp(with.sink(h) - of_row.log_sum_exp);
          sum.sink[static_cast<std::size_t>(h)] -= p * (delta - given);
          sum.sink_terms[static_cast<std::size_t>(h)] += p * (delta_terms + std::abs(given));
        }
        if (!normalized) delta = delta_terms = 0;
        delta -= given;
        delta_terms += std::abs(given);
        for (index_t j = 0; j < keys; ++j) {
          auto const n = static_cast<std::size_t>(j);
          if (logit[n] == hidden) continue;
          double const p = weight[n], is_positive = logit[n] > 0;
          double rate = p;
          if (with.settings == normalizer::sigmoid) rate = p * (1 - p);
          if (with.settings == normalizer::relu) rate = is_positive;
          if (with.settings == normalizer::relu_by_count) rate = is_positive / seen;
          if (with.settings == normalizer::relu_by_sum) rate = is_positive / (positive + with.relu_epsilon);
          double s = 0;
          for (index_t c = 0; c < dimension; ++c)
            s += static_cast<double>(query(b, h, i, c)) * static_cast<double>(key(b, hk, j, c));
          s *= scale;
          place const here{b, h, i, j, queries, keys};
          auto const pair = static_cast<std::size_t>(((b * heads + h) * query.extent(2) + i) * key.extent(2) + j);
          std::vector<double> slope(with.scores.size());
          for (std::size_t x = 0; x < with.scores.size(); ++x) {
            double const step = 1e-6 * std::max(1.0, std::abs(s));
            slope[x] = (with.scores[x](s + step, here) - with.scores[x](s - step, here)) / (2 * step);
            sum.scores[x].before[pair] = s;
            s = with.scores[x](s, here);
          }
          for (std::size_t x = with.scores.size(); x-- > 0; rate *= slope[x]) {
            sum.scores[x].after[pair] = rate * (change[n] - delta);
            sum.scores[x].terms[pair] = std::abs(rate) * (std::abs(change[n]) + delta_terms);
          }
          double const e = rate * (change[n] - delta), e_terms = std::abs(rate) * (std::abs(change[n]) + delta_terms);
          for (index_t c = 0; c < dimension; ++c) {
            double const q = scale * static_cast<double>(query(b, h, i, c));
            double const k = scale * static_cast<double>(key(b, hk, j, c));
            sum.query[at(query, b, h, i, c)] += e * k;
            sum.key[at(key, b, hk, j, c)] += e * q;
            terms.query[at(query, b, h, i, c)] += e_terms * std::abs(k);
            terms.key[at(key, b, hk, j, c)] += e_terms * std::abs(q);
          }
        }
      }
    }
  auto const largest = [](std::vector<double> const& all) {
    return all.empty() ? 0.0 : *std::max_element(all.begin(), all.end());
  };
  sum.query_terms = largest(terms.query);
  sum.key_terms = largest(terms.key);
  sum.value_terms = largest(terms.value);
  sum.value_gain_terms = largest(terms.value_gain);
  sum.head_gate_terms = largest(terms.head_gate);
  return sum;
}

}  // namespace attend::inline ATTEND_TARGET::reference
