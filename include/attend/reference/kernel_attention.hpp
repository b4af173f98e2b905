// SPDX-License-Identifier: BSD-3-Clause
// Attention by any kernel, by definition: all pairs, in double. What linear attention computes through a state, this
// computes without one.
//
//   x_i = sum_j w(q_i, k_j) v_j over the keys that are seen      o_i = x_i / d_i
//   d_i = 1, sum_j w + epsilon, max(sum_j w, epsilon), or sqrt(mean_c(x_ic^2) + epsilon)
//
// The mean is over the columns of a head, or over those of all heads.
//
// Causal, the query sees the keys up to its own position; the last query stands at the last key. Query head h reads key
// head h / (query heads / key heads), and so for value heads.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::reference {

using row = std::vector<double>;

template <class T>
row row_of(tensor_view<T const, 4> const& tensor, index_t batch, index_t head, index_t token) {
  row result;
  for (index_t c = 0; c < tensor.extent(3); ++c) result.push_back(static_cast<double>(tensor(batch, head, token, c)));
  return result;
}

inline double dot(row const& a, row const& b) {
  double sum = 0;
  for (std::size_t c = 0; c < a.size(); ++c) sum += a[c] * b[c];
  return sum;
}

/// Where a pair stands: heads, and the positions of query and key.
struct pair_place {
  index_t batch, query_head, key_head, query, key;
};

/// A weight, and the sum of the magnitudes of the terms that it is made of, where some of them cancel.
struct kernel_weight {
  double weight, magnitude;
  kernel_weight(double sum) : weight(sum), magnitude(std::abs(sum)) {}
  kernel_weight(double sum, double of_magnitudes) : weight(sum), magnitude(of_magnitudes) {}
};

enum class kernel_divisor { one, sum, bounded_sum, root_mean_square, joined_root_mean_square };

struct kernel_options {
  std::function<kernel_weight(row const& query, row const& key, pair_place const& at)> weight;
  bool causal = true;
  kernel_divisor divisor = kernel_divisor::one;
  double epsilon = 0;
};

struct kernel_result {
  std::vector<double> output;  // [batch, query head, query, value dimension]
  std::vector<double>
      magnitude;  // how large the numbers were that each output is made of: what its error is relative to
};

/// Divides a token's outputs by the root mean square of all of them, whatever their head.
inline void divide_joined(kernel_result& result, index_t batch, index_t query, index_t heads, index_t queries,
                          index_t columns, double epsilon) {
  double squares = 0, most = 0;
  auto const for_all = [&](auto&& visit) {
    for (index_t h = 0; h < heads; ++h)
      for (index_t c = 0; c < columns; ++c) {
        auto const at = static_cast<std::size_t>(((batch * heads + h) * queries + query) * columns + c);
        visit(result.output[at], result.magnitude[at]);
      }
  };
  for_all([&](double x, double terms) {
    squares += x * x;
    most = std::max(most, terms);
  });
  double const divisor = std::sqrt(squares / static_cast<double>(heads * columns) + epsilon);
  for_all([&](double& x, double& terms) {
    x /= divisor;
    terms = terms / divisor + std::abs(x) * most / divisor;
  });
}

template <class T>
kernel_result kernel_attention(tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key,
                               tensor_view<T const, 4> const& value, kernel_options const& with) {
  index_t const queries = query.extent(2), keys = key.extent(2), columns = value.extent(3), heads = query.extent(1);
  kernel_result result;
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < heads; ++h) {
      index_t const key_head = h * key.extent(1) / heads, value_head = h * value.extent(1) / heads;
      for (index_t i = 0; i < queries; ++i) {
        index_t const position = i + keys - queries;
        row const q = row_of(query, b, h, i);
        row x(static_cast<std::size_t>(columns)), terms(static_cast<std::size_t>(columns));
        double sum = 0, sum_of_terms = 0;
        for (index_t j = 0; j < (with.causal ? position + 1 : keys); ++j) {
          kernel_weight const w = with.weight(q, row_of(key, b, key_head, j), {b, h, key_head, position, j});
          row const v = row_of(value, b, value_head, j);
          sum += w.weight;
          sum_of_terms += w.magnitude;
          for (std::size_t c = 0; c < v.size(); ++c) {
            x[c] += w.weight * v[c];
            terms[c] += w.magnitude * std::abs(v[c]);
          }
        }
        double divisor = 1, relative = 0;
        if (with.divisor == kernel_divisor::sum) divisor = sum + with.epsilon;
        if (with.divisor == kernel_divisor::bounded_sum) divisor = std::max(sum, with.epsilon);
        if (divisor != 1) relative = sum_of_terms / std::abs(divisor);
        if (with.divisor == kernel_divisor::root_mean_square) {
          double most = 0;
          for (double term : terms) most = std::max(most, term);
          divisor = std::sqrt(dot(x, x) / static_cast<double>(columns) + with.epsilon);
          relative = most / divisor;
        }
        for (std::size_t c = 0; c < x.size(); ++c) {
          result.output.push_back(x[c] / divisor);
          result.magnitude.push_back(terms[c] / std::abs(divisor) + std::abs(x[c] / divisor) * relative);
        }
      }
    }
  if (with.divisor == kernel_divisor::joined_root_mean_square)
    for (index_t b = 0; b < query.extent(0); ++b)
      for (index_t i = 0; i < queries; ++i) divide_joined(result, b, i, heads, queries, columns, with.epsilon);
  return result;
}

}  // namespace attend::inline ATTEND_TARGET::reference
