// SPDX-License-Identifier: BSD-3-Clause
// Softmax attention and its relatives by definition: one query at a time, one key after the other, in double. It knows
// nothing of the kernels and their policies: masks and scores are plain functions of a place, and the few named ones
// below are written from their formulae.
//
// Cost 2 * (key dimension + value dimension) operations for each pair and queries * keys doubles: an oracle, not a
// kernel.
#pragma once

#include <cmath>
#include <functional>
#include <vector>

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// A pair of a query and a key. Indices count within the sequence; the query's position is its index plus
/// (keys - queries), a key's is its index.
struct place {
  index_t batch, head, query, key, queries, keys;

  index_t position() const { return query + keys - queries; }
};

using visible_function = std::function<bool(place const&)>;
using score_function = std::function<double(double, place const&)>;

// Masks.
inline visible_function everything() {
  return [](place const&) { return true; };
}
/// Query i sees key j where j <= i + offset.
inline visible_function causal_with_offset(index_t offset) {
  return [=](place const& at) { return at.key <= at.query + offset; };
}
inline visible_function causal_bottom_right() {
  return [](place const& at) { return at.key <= at.query + at.keys - at.queries; };
}
inline visible_function sliding_window(index_t left, index_t right) {
  return [=](place const& at) {
    return (left < 0 || at.position() - left <= at.key) && (right < 0 || at.key <= at.position() + right);
  };
}

/// How logits become weights.
enum class normalizer { softmax, sigmoid, relu, relu_by_count, relu_by_sum };

struct options {
  double scale = 0;  // 0: 1/sqrt(key dimension)
  std::vector<score_function> scores;
  visible_function visible = everything();
  normalizer settings = normalizer::softmax;
  double sigmoid_bias = 0;
  double relu_epsilon = 1e-5;
  /// Softmax: one more term exp(sink) in the denominator of a head's rows.
  std::function<double(index_t head)> sink;
  /// Extra keys and values [batch or 1, head, slot, dimension] that every query sees; values may be left out (zeros).
  tensor_view<double const, 4> slot_key, slot_value;
  /// What multiplies the weight of a key after normalization, and the output of a head.
  std::function<double(index_t batch, index_t value_head, index_t key)> value_gain;
  std::function<double(index_t batch, index_t head)> head_gate;
  /// What multiplies the weight of a pair after normalization.
  std::function<double(place const&)> pair_gain;
  /// Keys and queries of a batch that count; all of them without it.
  std::function<index_t(index_t batch)> query_length, key_length;
};

/// Outputs that are wanted beside the first have data.
struct result {
  index_t batches, heads, queries, keys, dimension;
  std::vector<double> output;       // [batch, head, query, value dimension]
  std::vector<double> log_sum_exp;  // [batch, head, query]
  std::vector<double> weights;      // [batch, head, query, key]

  double& at(index_t b, index_t h, index_t i, index_t c) {
    return output[static_cast<std::size_t>(((b * heads + h) * queries + i) * dimension + c)];
  }
  double& lse(index_t b, index_t h, index_t i) {
    return log_sum_exp[static_cast<std::size_t>((b * heads + h) * queries + i)];
  }
  double& weight(index_t b, index_t h, index_t i, index_t j) {
    return weights[static_cast<std::size_t>(((b * heads + h) * queries + i) * keys + j)];
  }
};

/// One row of logits, for the slots and then the keys: minus infinity where a key is hidden.
template <class T>
std::vector<double> logits_of(tensor_view<T const, 4> query, tensor_view<T const, 4> key, place row, double scale,
                              options const& with) {
  index_t const dimension = query.extent(3), slots = with.slot_key.data() ? with.slot_key.extent(2) : 0;
  index_t const key_head = row.head / (query.extent(1) / key.extent(1));
  std::vector<double> logit;
  for (index_t j = 0; j < slots + row.keys; ++j) {
    bool const is_slot = j < slots;
    place const at{row.batch, row.head, row.query, j - slots, row.queries, row.keys};
    logit.push_back(-std::numeric_limits<double>::infinity());
    if (!is_slot && !with.visible(at)) continue;
    double s = 0;
    for (index_t c = 0; c < dimension; ++c)
      s += static_cast<double>(query(at.batch, at.head, at.query, c)) *
           (is_slot ? with.slot_key(with.slot_key.extent(0) == 1 ? 0 : at.batch, key_head, j, c)
                    : static_cast<double>(key(at.batch, key_head, at.key, c)));
    s *= scale;
    if (!is_slot)
      for (score_function const& score : with.scores) s = score(s, at);
    logit.back() = s;
  }
  return logit;
}

/// The weights of a row of logits, and the logarithm of what a softmax divides by.
struct row_weights {
  std::vector<double> weight;
  double log_sum_exp = -std::numeric_limits<double>::infinity();
};
inline row_weights weights_of(std::vector<double> const& logit, double sink, options const& with) {
  double const hidden = -std::numeric_limits<double>::infinity();
  row_weights row{std::vector<double>(logit.size(), 0.0)};
  double maximum = hidden, sum = 0, visible = 0;
  for (double s : logit) maximum = s > maximum || std::isnan(s) ? s : maximum;
  maximum = sink > maximum ? sink : maximum;
  for (std::size_t j = 0; j < logit.size(); ++j) {
    if (logit[j] == hidden) continue;
    ++visible;
    switch (with.settings) {
      case normalizer::softmax:
        row.weight[j] = std::exp(logit[j] - maximum);
        break;
      case normalizer::sigmoid:
        row.weight[j] = 1 / (1 + std::exp(-(logit[j] + with.sigmoid_bias)));
        break;
      default:
        row.weight[j] = logit[j] < 0 ? 0 : logit[j];
    }
    sum += row.weight[j];
  }
  double factor = 1;
  if (with.settings == normalizer::softmax) {
    if (sink != hidden) sum += std::exp(sink - maximum);
    factor = sum == 0 ? 0 : 1 / sum;
    row.log_sum_exp = sum == 0 ? hidden : maximum + std::log(sum);
  } else if (with.settings == normalizer::relu_by_count) {
    factor = visible == 0 ? 0 : 1 / visible;
  } else if (with.settings == normalizer::relu_by_sum) {
    factor = sum == 0 ? 0 : 1 / (sum + with.relu_epsilon);
  }
  for (double& w : row.weight) w *= factor;
  return row;
}

/// query [batch, query head, query, key dimension], key [batch, key head, key, key dimension],
/// value [batch, value head, key, value dimension]; elements of any type.
template <class T>
result softmax_attention(tensor_view<T const, 4> query, tensor_view<T const, 4> key, tensor_view<T const, 4> value,
                         options const& with = {}) {
  double const hidden = -std::numeric_limits<double>::infinity();
  result r{query.extent(0), query.extent(1), query.extent(2), key.extent(2), value.extent(3), {}, {}, {}};
  auto const rows = static_cast<std::size_t>(r.batches * r.heads * r.queries);
  r.output.assign(rows * static_cast<std::size_t>(r.dimension), 0.0);
  r.log_sum_exp.assign(rows, hidden);
  r.weights.assign(rows * static_cast<std::size_t>(r.keys), 0.0);
  index_t const dimension = query.extent(3);
  double const scale = with.scale != 0 ? with.scale : dimension > 0 ? 1 / std::sqrt(static_cast<double>(dimension)) : 1;
  index_t const slots = with.slot_key.data() ? with.slot_key.extent(2) : 0;

  for (index_t b = 0; b < r.batches; ++b)
    for (index_t h = 0; h < r.heads; ++h) {
      index_t const hv = h / (r.heads / value.extent(1));
      index_t const queries = with.query_length ? with.query_length(b) : r.queries;
      index_t const keys = with.key_length ? with.key_length(b) : r.keys;
      double const gate = with.head_gate ? with.head_gate(b, h) : 1;
      if (gate == 0) continue;
      for (index_t i = 0; i < queries; ++i) {
        std::vector<double> const logit = logits_of<T>(query, key, {b, h, i, 0, queries, keys}, scale, with);
        row_weights const row = weights_of(logit, with.sink ? with.sink(h) : hidden, with);
        r.lse(b, h, i) = row.log_sum_exp;
        for (index_t j = 0; j < slots + keys; ++j) {
          bool const is_slot = j < slots;
          // A hidden key adds nothing, whatever its value is.
          if (logit[static_cast<std::size_t>(j)] == hidden) continue;
          double p = row.weight[static_cast<std::size_t>(j)];
          if (!is_slot) {
            r.weight(b, h, i, j - slots) = p;
            if (with.value_gain) p *= with.value_gain(b, hv, j - slots);
            if (with.pair_gain) p *= with.pair_gain({b, h, i, j - slots, queries, keys});
          } else if (!with.slot_value.data()) {
            continue;
          }
          for (index_t c = 0; c < r.dimension; ++c)
            r.at(b, h, i, c) += gate * p *
                                (is_slot ? with.slot_value(with.slot_value.extent(0) == 1 ? 0 : b, hv, j, c)
                                         : static_cast<double>(value(b, hv, j - slots, c)));
        }
      }
    }
  return r;
}

}  // namespace attend::inline ATTEND_TARGET::reference
