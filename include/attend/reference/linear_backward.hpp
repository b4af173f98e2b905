// SPDX-License-Identifier: BSD-3-Clause
// The gradients of linear attention by definition: the recurrence forward, then backward through time, one token after
// the other, in double.
//
//   dS_t <- dS_t + scale phi(q_t) dx_t^T            a query reads: x_t = scale phi(q_t)^T S_t
//   dw_t = dS_t^T phi(k_t),  dphi(k_t) = dS_t w_t   a token writes
//   dS' = dS_t, or dS_t - rate_t phi(k_t) dw_t^T    of S' = diag(a_t) S_{t-1}, which a delta rule reads
//   d log a_t = <dS', S'> for each feature,   dS_{t-1} = diag(a_t) dS'
//
// Of a feature map, which is a plain function, a difference quotient is taken.
//
// Cost 16 * features * value dimension operations for each token, and memory for all states of a head: an oracle.
#pragma once

#include "linear_attention.hpp"

namespace attend::inline ATTEND_TARGET::reference {

/// Gradients, each of the shape of its tensor; those of decays, [batch, state head, token, feature], are by logarithms.
struct linear_gradients {
  std::vector<double> query, key, value;
  std::vector<double> decay, rate;  // rate [batch, state head, token]
  std::vector<double> state, key_sum;
};

/// `of_state` and `of_key_sum` are the gradients of what the sequence ends with; zeros where empty.
template <class T>
linear_gradients linear_backward(tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key,
                                 tensor_view<T const, 4> const& value, tensor_view<T const, 4> const& of_output,
                                 linear_options const& with, std::vector<double> const& of_state = {},
                                 std::vector<double> const& of_key_sum = {}) {
  using row = std::vector<double>;
  index_t const batches = query.extent(0), queries = query.extent(2), keys = key.extent(2), columns = value.extent(3);
  index_t const state_heads = std::max(key.extent(1), value.extent(1));
  index_t const output_heads = std::max(query.extent(1), state_heads);
  auto const size = [](index_t count) { return static_cast<std::size_t>(count); };
  auto const raw_row = [&](tensor_view<T const, 4> const& tensor, index_t b, index_t h, index_t t) {
    row numbers;
    for (index_t c = 0; c < tensor.extent(3); ++c) numbers.push_back(static_cast<double>(tensor(b, h, t, c)));
    return numbers;
  };
  auto const map = [&](row const& numbers, bool is_query, index_t b, index_t h, index_t t) {
    return with.features ? with.features(numbers, is_query, b, h, t) : numbers;
  };
  index_t const features = static_cast<index_t>(map(row(size(key.extent(3))), false, 0, 0, 0).size());
  /// Adds the gradient of a row, given that of its features.
  auto const pull = [&](tensor_view<T const, 4> const& tensor, bool is_query, index_t b, index_t h, index_t t,
                        row const& of_features, row& to) {
    row x = raw_row(tensor, b, h, t);
    double* const at = to.data() + ((b * tensor.extent(1) + h) * tensor.extent(2) + t) * tensor.extent(3);
    for (index_t c = 0; c < tensor.extent(3); ++c) {
      if (!with.features) {
        at[c] += of_features[size(c)];
        continue;
      }
      double const kept = x[size(c)], step = 1e-5;
      x[size(c)] = kept + step;
      row const above = map(x, is_query, b, h, t);
      x[size(c)] = kept - step;
      row const below = map(x, is_query, b, h, t);
      x[size(c)] = kept;
      for (index_t f = 0; f < features; ++f)
        at[c] += of_features[size(f)] * (above[size(f)] - below[size(f)]) / (2 * step);
    }
  };

  linear_gradients g;
  g.query.resize(size(batches * query.extent(1) * queries * query.extent(3)));
  g.key.resize(size(batches * key.extent(1) * keys * key.extent(3)));
  g.value.resize(size(batches * value.extent(1) * keys * columns));
  g.decay.resize(size(batches * state_heads * keys * features));
  g.rate.resize(size(batches * state_heads * keys));
  g.state = of_state;
  g.state.resize(size(batches * state_heads * features * columns));
  g.key_sum = of_key_sum;
  g.key_sum.resize(size(batches * state_heads * features));
  row initial = with.state, initial_sum = with.key_sum;
  initial.resize(g.state.size());
  initial_sum.resize(g.key_sum.size());

  for (index_t b = 0; b < batches; ++b)
    for (index_t head = 0; head < state_heads; ++head) {
      index_t const first = b * state_heads + head, numbers = features * columns;
      index_t const key_head = head * key.extent(1) / state_heads, value_head = head * value.extent(1) / state_heads;
      double* const ds = g.state.data() + first * numbers;
      double* const dz = g.key_sum.data() + first * features;
      // The states after each token, from the initial one on, and what each token has read and written.
      std::vector<row> states{row(initial.begin() + first * numbers, initial.begin() + (first + 1) * numbers)};
      std::vector<row> sums{row(initial_sum.begin() + first * features, initial_sum.begin() + (first + 1) * features)};
      std::vector<row> mapped, decays, decayed, errors;
      row rates;
      for (index_t t = 0; t < keys; ++t) {
        row s = states.back(), z = sums.back(), a(size(features)), error = raw_row(value, b, value_head, t);
        mapped.push_back(map(raw_row(key, b, key_head, t), false, b, key_head, t));
        rates.push_back(with.rate ? with.rate(b, head, t) : 1.0);
        row const& k = mapped.back();
        for (index_t f = 0; f < features; ++f) {
          a[size(f)] = with.log_decay ? std::exp(with.log_decay(b, head, t, f)) : 1.0;
          for (index_t c = 0; c < columns; ++c) s[size(f * columns + c)] *= a[size(f)];
          z[size(f)] = z[size(f)] * a[size(f)] + rates.back() * k[size(f)];
        }
        decayed.push_back(s);
        if (with.update == state_update::delta)
          for (index_t f = 0; f < features; ++f)
            for (index_t c = 0; c < columns; ++c) error[size(c)] -= k[size(f)] * s[size(f * columns + c)];
        for (index_t f = 0; f < features; ++f)
          for (index_t c = 0; c < columns; ++c) s[size(f * columns + c)] += rates.back() * k[size(f)] * error[size(c)];
        decays.push_back(a);
        errors.push_back(error);
        states.push_back(s);
        sums.push_back(z);
      }

      auto const read = [&](index_t i, row const& s, row const& z) {
        index_t const group = output_heads / state_heads;
        for (index_t h = head * group; h < (head + 1) * group; ++h) {
          index_t const query_head = h * query.extent(1) / output_heads;
          row const q = map(raw_row(query, b, query_head, i), true, b, query_head, i);
          row dx = raw_row(of_output, b, h, i), dq(size(features));
          double divisor = with.epsilon, weighed = 0;
          for (index_t f = 0; f < features; ++f) {
            divisor += with.scale * q[size(f)] * z[size(f)];
            for (index_t c = 0; c < columns; ++c)
              weighed += with.scale * q[size(f)] * s[size(f * columns + c)] * dx[size(c)];
          }
          double of_divisor = 0;
          if (with.divisor == state_divisor::key_sum) {
            for (double& x : dx) x /= divisor;
            of_divisor = -weighed / (divisor * divisor);
          }
          for (index_t f = 0; f < features; ++f) {
            dq[size(f)] = with.scale * of_divisor * z[size(f)];
            dz[f] += with.scale * of_divisor * q[size(f)];
            for (index_t c = 0; c < columns; ++c) {
              dq[size(f)] += with.scale * s[size(f * columns + c)] * dx[size(c)];
              ds[f * columns + c] += with.scale * q[size(f)] * dx[size(c)];
            }
          }
          pull(query, true, b, query_head, i, dq, g.query);
        }
      };
      for (index_t i = 0; !with.causal && i < queries; ++i) read(i, states.back(), sums.back());
      for (index_t t = keys - 1; t >= 0; --t) {
        if (with.causal && t >= keys - queries) read(t - (keys - queries), states[size(t + 1)], sums[size(t + 1)]);
        row const &k = mapped[size(t)], &error = errors[size(t)], &s = decayed[size(t)];
        double const rate = rates[size(t)];
        row dw(size(columns)), dk(size(features));
        double of_rate = 0;
        for (index_t f = 0; f < features; ++f) {
          dk[size(f)] = rate * dz[f];
          of_rate += k[size(f)] * dz[f];
          for (index_t c = 0; c < columns; ++c) {
            dw[size(c)] += ds[f * columns + c] * k[size(f)];
            dk[size(f)] += ds[f * columns + c] * rate * error[size(c)];
          }
        }
        for (index_t c = 0; c < columns; ++c) {
          of_rate += dw[size(c)] * error[size(c)];
          g.value[size(((b * value.extent(1) + value_head) * keys + t) * columns + c)] += rate * dw[size(c)];
        }
        if (with.update == state_update::delta)
          for (index_t f = 0; f < features; ++f)
            for (index_t c = 0; c < columns; ++c) {
              dk[size(f)] -= s[size(f * columns + c)] * rate * dw[size(c)];
              ds[f * columns + c] -= k[size(f)] * rate * dw[size(c)];
            }
        g.rate[size(first * keys + t)] = of_rate;
        for (index_t f = 0; f < features; ++f) {
          double const a = decays[size(t)][size(f)];
          double of_decay = a * sums[size(t)][size(f)] * dz[f];
          for (index_t c = 0; c < columns; ++c) {
            of_decay += ds[f * columns + c] * s[size(f * columns + c)];
            ds[f * columns + c] *= a;
          }
          dz[f] *= a;
          g.decay[size((first * keys + t) * features + f)] = of_decay;
        }
        pull(key, false, b, key_head, t, dk, g.key);
      }
    }
  return g;
}

}  // namespace attend::inline ATTEND_TARGET::reference
