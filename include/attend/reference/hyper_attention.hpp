// SPDX-License-Identifier: BSD-3-Clause
// HyperAttention by definition: each query has a list of keys and of what multiplies their exponentials. Written from
// the paper's recursion, in double; the directions of the hash and the draws are given.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::reference {

struct hyper_sizes {
  index_t block, samples, exact_below;
};

/// The t-th draw below `keys` for the queries from first_query on.
using hyper_draws = std::function<index_t(index_t first_query, index_t t, index_t keys)>;

struct hyper_result {
  std::vector<double> output;       // [batch, head, query, value dimension]
  std::vector<double> log_sum_exp;  // [batch, head, query]
};

template <class T>
class hyper_definition {
 public:
  using view = tensor_view<T const, 4>;

  hyper_definition(view query, view key, tensor_view<double const, 2> directions, hyper_sizes const& sizes,
                   hyper_draws draws, index_t batch, index_t head)
      : query_(query),
        key_(key),
        directions_(directions),
        sizes_(sizes),
        draws_(std::move(draws)),
        b_(batch),
        h_(head) {
    shared_ = head / (query.extent(1) / key.extent(1));
    seen.resize(static_cast<std::size_t>(query.extent(2)));
  }

  struct term {
    index_t key;
    double times;
  };
  std::vector<std::vector<term>> seen;  // of each query

  void causal(index_t first, index_t last) {
    if (last - first <= sizes_.exact_below || last - first < 2) {
      for (index_t i = first; i < last; ++i)
        for (index_t j = first; j <= i; ++j) see(i, j, 1);
      return;
    }
    index_t const middle = first + (last - first) / 2;
    causal(first, middle);
    causal(middle, last);
    cross(middle, last, first, middle);
  }

  void cross(index_t first_query, index_t last_query, index_t first_key, index_t last_key) {
    index_t const queries = last_query - first_query, keys = last_key - first_key;
    index_t const blocks = (keys + sizes_.block - 1) / sizes_.block;
    if (queries < sizes_.exact_below || blocks <= 1) {
      for (index_t i = first_query; i < last_query; ++i)
        for (index_t j = first_key; j < last_key; ++j) see(i, j, 1);
      return;
    }
    auto const q = sorted(query_, h_, first_query, last_query), k = sorted(key_, shared_, first_key, last_key);
    for (index_t block = 0; block < blocks; ++block) {
      index_t const from = block * keys / blocks, to = (block + 1) * keys / blocks;
      for (index_t at = block * queries / blocks; at < (block + 1) * queries / blocks; ++at) {
        index_t const i = q[static_cast<std::size_t>(at)];
        for (index_t j = from; j < to; ++j) see(i, k[static_cast<std::size_t>(j)], 1);
        for (index_t t = 0; t < sizes_.samples; ++t) {
          index_t const j = draws_(first_query, t, keys);
          if (j < from || j >= to)
            see(i, k[static_cast<std::size_t>(j)], static_cast<double>(keys) / static_cast<double>(sizes_.samples));
        }
      }
    }
  }

 private:
  void see(index_t i, index_t j, double times) { seen[static_cast<std::size_t>(i)].push_back({j, times}); }

  /// Tokens by the place of their code among the reflected Gray codes 0, 1, 11, 10, 110, ...
  std::vector<index_t> sorted(view tokens, index_t head, index_t first, index_t last) const {
    std::vector<unsigned> gray{0};
    for (index_t bit = 0; bit < directions_.extent(0); ++bit)
      for (std::size_t i = gray.size(); i-- > 0;) gray.push_back(gray[i] + (1u << bit));
    auto const place = [&](index_t j) {
      unsigned code = 0;
      for (index_t t = 0; t < directions_.extent(0); ++t) {
        double product = 0;
        for (index_t c = 0; c < tokens.extent(3); ++c)
          product += static_cast<double>(tokens(b_, head, j, c)) * directions_(t, c);
        if (product > 0) code |= 1u << t;
      }
      return std::find(gray.begin(), gray.end(), code) - gray.begin();
    };
    std::vector<index_t> order(static_cast<std::size_t>(last - first));
    std::iota(order.begin(), order.end(), first);
    std::stable_sort(order.begin(), order.end(), [&](index_t x, index_t y) { return place(x) < place(y); });
    return order;
  }

  view query_, key_;
  tensor_view<double const, 2> directions_;
  hyper_sizes sizes_;
  hyper_draws draws_;
  index_t b_, h_, shared_;
};

template <class T>
hyper_result hyper_attention(tensor_view<T const, 4> query, tensor_view<T const, 4> key, tensor_view<T const, 4> value,
                             tensor_view<double const, 2> directions, hyper_sizes const& sizes,
                             hyper_draws const& draws, bool causal) {
  hyper_result result;
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < query.extent(1); ++h) {
      hyper_definition<T> head(query, key, directions, sizes, draws, b, h);
      if (causal)
        head.causal(0, query.extent(2));
      else
        head.cross(0, query.extent(2), 0, key.extent(2));
      index_t const hk = h / (query.extent(1) / key.extent(1)), hv = h / (query.extent(1) / value.extent(1));
      for (index_t i = 0; i < query.extent(2); ++i) {
        // Logits of tests are small enough for exp.
        std::vector<double> sum(static_cast<std::size_t>(value.extent(3)), 0.0);
        double weight_sum = 0;
        for (auto const& [j, times] : head.seen[static_cast<std::size_t>(i)]) {
          double s = 0;
          for (index_t c = 0; c < key.extent(3); ++c)
            s += static_cast<double>(query(b, h, i, c)) * static_cast<double>(key(b, hk, j, c));
          double const weight = times * std::exp(s / std::sqrt(static_cast<double>(key.extent(3))));
          weight_sum += weight;
          for (std::size_t c = 0; c < sum.size(); ++c)
            sum[c] += weight * static_cast<double>(value(b, hv, j, static_cast<index_t>(c)));
        }
        for (double x : sum) result.output.push_back(weight_sum > 0 ? x / weight_sum : 0);
        result.log_sum_exp.push_back(std::log(weight_sum));
      }
    }
  return result;
}

}  // namespace attend::inline ATTEND_TARGET::reference
