// SPDX-License-Identifier: BSD-3-Clause
// Linear attention by definition: one token after the other, in double. It knows nothing of chunks, policies and
// kernels: decays, rates and feature maps are plain functions.
//
//   S_t = diag(a_t) S_{t-1} + phi(k_t) w_t^T     z_t = diag(a_t) z_{t-1} + rate_t phi(k_t)
//   o_t = scale phi(q_t)^T S_t                   divided by (scale phi(q_t) . z_t + epsilon), or by a root mean square
//
// Cost 6 * features * value dimension operations for each token: an oracle, not a kernel.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::reference {

enum class state_update { additive, delta };
enum class state_divisor { one, key_sum, root_mean_square };

struct linear_options {
  bool causal = true;
  double scale = 1;
  state_update update = state_update::additive;
  state_divisor divisor = state_divisor::one;
  double epsilon = 1e-6;
  /// phi: a row of numbers becomes a row of features. `token` counts from the first of the tensor.
  std::function<std::vector<double>(std::vector<double> const& row, bool is_query, index_t batch, index_t head,
                                    index_t token)>
      features;
  /// log a_t of a state head, a token and a feature; 0 without it.
  std::function<double(index_t batch, index_t head, index_t token, index_t feature)> log_decay;
  /// What the update multiplies what it writes by; 1 without it.
  std::function<double(index_t batch, index_t head, index_t token)> rate;
  /// The state and the sum of keys before the first token; zeros where empty.
  std::vector<double> state;    // [batch, state head, feature, value dimension]
  std::vector<double> key_sum;  // [batch, state head, feature]
};

struct linear_result {
  std::vector<double> output;  // [batch, output head, query, value dimension]
  std::vector<double> state;   // after the last token
  std::vector<double> key_sum;
};

template <class T>
linear_result linear_attention(tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key,
                               tensor_view<T const, 4> const& value, linear_options const& with) {
  index_t const batches = query.extent(0), queries = query.extent(2), keys = key.extent(2), columns = value.extent(3);
  index_t const state_heads = std::max(key.extent(1), value.extent(1));
  index_t const output_heads = std::max(query.extent(1), state_heads);

  auto const row = [&](tensor_view<T const, 4> const& tensor, bool is_query, index_t b, index_t h, index_t token) {
    std::vector<double> numbers;
    for (index_t c = 0; c < tensor.extent(3); ++c) numbers.push_back(static_cast<double>(tensor(b, h, token, c)));
    return with.features ? with.features(numbers, is_query, b, h, token) : numbers;
  };
  auto const feature_count = [&] {
    std::vector<double> const zeros(static_cast<std::size_t>(key.extent(3)));
    return static_cast<index_t>((with.features ? with.features(zeros, false, 0, 0, 0) : zeros).size());
  };
  index_t const features = feature_count();

  linear_result result;
  result.output.assign(static_cast<std::size_t>(batches * output_heads * queries * columns), 0.0);
  result.state = with.state;
  result.key_sum = with.key_sum;
  result.state.resize(static_cast<std::size_t>(batches * state_heads * features * columns));
  result.key_sum.resize(static_cast<std::size_t>(batches * state_heads * features));

  for (index_t b = 0; b < batches; ++b)
    for (index_t head = 0; head < state_heads; ++head) {
      double* const state = result.state.data() + (b * state_heads + head) * features * columns;
      double* const key_sum = result.key_sum.data() + (b * state_heads + head) * features;

      auto const read = [&](index_t query_index) {
        index_t const group = output_heads / state_heads;
        for (index_t h = head * group; h < (head + 1) * group; ++h) {
          auto const q = row(query, true, b, h * query.extent(1) / output_heads, query_index);
          double* const o = result.output.data() + ((b * output_heads + h) * queries + query_index) * columns;
          double sum = 0, squares = 0;
          for (index_t f = 0; f < features; ++f) {
            double const weight = with.scale * q[static_cast<std::size_t>(f)];
            sum += weight * key_sum[f];
            for (index_t c = 0; c < columns; ++c) o[c] += weight * state[f * columns + c];
          }
          for (index_t c = 0; c < columns; ++c) squares += o[c] * o[c];
          double divisor = 1;
          if (with.divisor == state_divisor::key_sum) divisor = sum + with.epsilon;
          if (with.divisor == state_divisor::root_mean_square)
            divisor = std::sqrt(squares / static_cast<double>(columns) + with.epsilon);
          for (index_t c = 0; c < columns; ++c) o[c] /= divisor;
        }
      };

      for (index_t t = 0; t < keys; ++t) {
        auto const k = row(key, false, b, head * key.extent(1) / state_heads, t);
        for (index_t f = 0; f < features; ++f) {
          double const decay = with.log_decay ? std::exp(with.log_decay(b, head, t, f)) : 1.0;
          key_sum[f] *= decay;
          for (index_t c = 0; c < columns; ++c) state[f * columns + c] *= decay;
        }
        double const rate = with.rate ? with.rate(b, head, t) : 1.0;
        for (index_t f = 0; f < features; ++f) key_sum[f] += rate * k[static_cast<std::size_t>(f)];
        for (index_t c = 0; c < columns; ++c) {
          double written = static_cast<double>(value(b, head * value.extent(1) / state_heads, t, c));
          if (with.update == state_update::delta)
            for (index_t f = 0; f < features; ++f) written -= k[static_cast<std::size_t>(f)] * state[f * columns + c];
          written *= rate;
          for (index_t f = 0; f < features; ++f) state[f * columns + c] += k[static_cast<std::size_t>(f)] * written;
        }
        if (with.causal && t >= keys - queries) read(t - (keys - queries));
      }
      for (index_t i = 0; !with.causal && i < queries; ++i) read(i);
    }
  return result;
}

}  // namespace attend::inline ATTEND_TARGET::reference
