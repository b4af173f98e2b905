// SPDX-License-Identifier: BSD-3-Clause
// Queries, keys and values that look like a long context, with keys planted in it that must be found.
//
// Normal numbers are a poor test of a selector: every key gets about the same weight, so that no choice is a good one,
// and no two tokens that follow each other have anything in common. Here, for each key-value head,
//
//   passages   k_j = s_j (sqrt(r) t + sqrt(1 - r) g_j): tokens of a passage share a topic t; t and g_j are normal
//   tails      s_j = exp(tail z_j), z_j normal: the logits of a query are normal numbers of many deviations, so a few
//              keys have most of the weight
//   steps      q_i = sharpness (sqrt(c) p_i + sqrt(1 - c) g): the heads that share keys have a part p_i in common, and
//              p_i = drift p_(i-1) + sqrt(1 - drift^2) g: what is looked for changes slowly from token to token
//   needles    every needle_period-th query has one key, somewhere before it, moved along the mean direction of the
//              heads that share it until its logit, at the usual scale, is at least log(keys) + margin with all of
//              them: alone, it would have exp(margin) times the weight that `keys` keys of logit 0 have together
//
// Values are normal. Numbers come from std::mt19937 and std::normal_distribution: the same seed gives the same numbers
// with the same standard library.
#pragma once

#include <algorithm>
#include <cmath>

#include "random_tensor.hpp"

namespace attend::test {

struct planted_shape {
  index_t query_heads = 1, key_heads = 1, queries = 1, keys = 0, key_dimension = 64, value_dimension = 64;
  index_t needle_period = 1;
  index_t passage = 256;
  double topic = 0.5, tail = 0.35, common = 0.8, drift = 0.95, sharpness = 1.5, margin = 0;
};

/// A key that a query must find.
struct needle {
  index_t key_head, query, key;
};

struct planted_keys {
  tensor<float, 4> query, key, value;  // [1, head, token, dimension]
  std::vector<needle> needles;
};

namespace detail {

class planter {
 public:
  planter(planted_shape const& shape, unsigned seed) : s_(shape), engine_(seed) {
    auto const d = s_.key_dimension;
    result_.query = filled<float, 4>({1, s_.query_heads, s_.queries, d}, 0);
    result_.key = filled<float, 4>({1, s_.key_heads, s_.keys, d}, 0);
    result_.value = filled<float, 4>({1, s_.key_heads, s_.keys, s_.value_dimension}, 0);
    for (float& x : result_.value.elements) x = number();
    for (index_t head = 0; head < s_.key_heads; ++head) {
      write_keys(head);
      write_queries(head);
      plant(head);
    }
  }

  planted_keys take() { return std::move(result_); }

 private:
  using row = std::vector<float>;

  float number() { return normal_(engine_); }
  row numbers() {
    row result(static_cast<std::size_t>(s_.key_dimension));
    for (float& x : result) x = number();
    return result;
  }

  /// to = sqrt(share) * a + sqrt(1 - share) * b, times a factor.
  void mix(float* to, double share, row const& a, row const& b, double factor) const {
    auto const of_a = static_cast<float>(factor * std::sqrt(share));
    auto const of_b = static_cast<float>(factor * std::sqrt(1 - share));
    for (std::size_t c = 0; c < a.size(); ++c) to[c] = of_a * a[c] + of_b * b[c];
  }

  void write_keys(index_t head) {
    row topic;
    for (index_t j = 0; j < s_.keys; ++j) {
      if (j % s_.passage == 0) topic = numbers();
      double const size = std::exp(s_.tail * number());
      mix(&result_.key.view()(0, head, j, 0), s_.topic, topic, numbers(), size);
    }
  }

  void write_queries(index_t head) {
    row sought = numbers();
    for (index_t i = 0; i < s_.queries; ++i) {
      if (i > 0) mix(sought.data(), s_.drift * s_.drift, row(sought), numbers(), 1);
      for (index_t h = 0; h < group_size(); ++h)
        mix(&result_.query.view()(0, head * group_size() + h, i, 0), s_.common, sought, numbers(), s_.sharpness);
    }
  }

  void plant(index_t head) {
    std::vector<bool> is_needle(static_cast<std::size_t>(s_.keys), false);
    for (index_t i = s_.needle_period - 1; i < s_.queries; i += s_.needle_period) {
      index_t const seen = s_.keys - s_.queries + i + 1;
      if (seen <= i / s_.needle_period) continue;  // no key is left to be moved
      index_t key = 0;
      do key = std::uniform_int_distribution<index_t>(0, seen - 1)(engine_);
      while (is_needle[static_cast<std::size_t>(key)]);
      is_needle[static_cast<std::size_t>(key)] = true;
      move(head, i, key);
      result_.needles.push_back({head, i, key});
    }
  }

  double dot(float const* a, float const* b) const {
    double sum = 0;
    for (index_t c = 0; c < s_.key_dimension; ++c) sum += static_cast<double>(a[c]) * static_cast<double>(b[c]);
    return sum;
  }

  void move(index_t head, index_t query, index_t key) {
    row direction(static_cast<std::size_t>(s_.key_dimension), 0);
    auto const of_head = [&](index_t h) { return &result_.query.view()(0, head * group_size() + h, query, 0); };
    for (index_t h = 0; h < group_size(); ++h) {
      float const* const q = of_head(h);
      auto const length = static_cast<float>(std::sqrt(dot(q, q)));
      for (std::size_t c = 0; c < direction.size(); ++c) direction[c] += q[c] / length;
    }
    float* const k = &result_.key.view()(0, head, key, 0);
    double const wanted =
        std::sqrt(static_cast<double>(s_.key_dimension)) * (std::log(static_cast<double>(s_.keys)) + s_.margin);
    double step = 0;
    for (index_t h = 0; h < group_size(); ++h)
      step = std::max(step, (wanted - dot(of_head(h), k)) / dot(of_head(h), direction.data()));
    for (std::size_t c = 0; c < direction.size(); ++c) k[c] += static_cast<float>(step) * direction[c];
  }

  index_t group_size() const { return s_.query_heads / s_.key_heads; }

  planted_shape s_;
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
  planted_keys result_;
};

}  // namespace detail

/// Keys no fewer than queries; the last query stands at the last key.
inline planted_keys plant_keys(planted_shape const& shape, unsigned seed) {
  return detail::planter(shape, seed).take();
}

}  // namespace attend::test
