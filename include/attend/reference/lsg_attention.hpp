// SPDX-License-Identifier: BSD-3-Clause
// LSG attention by definition, in double: for each query the rows that it sees, written from the paper's text and its
// authors' selections, token by token.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "../core/tensor_view.hpp"
#include "../core/types.hpp"

namespace attend::inline ATTEND_TARGET::reference {

enum class lsg_rule { stride, block_stride, norm, pooling, bos_pooling, lsh };

struct lsg_setting {
  index_t block, factor, global;
  lsg_rule rule;
  bool causal;
  std::function<bool(index_t batch, index_t token)> attended;
  tensor_view<float const, 3> directions;  // [query head, half of the buckets, key dimension]
};

struct lsg_result {
  std::vector<double> output, log_sum_exp;
};

/// One head of a batch.
template <class T>
class lsg_head {
 public:
  lsg_head(tensor_view<T const, 4> query, tensor_view<T const, 4> key, tensor_view<T const, 4> value,
           lsg_setting const& settings, index_t batch, index_t head)
      : query_(query),
        key_(key),
        value_(value),
        settings_(settings),
        batch_(batch),
        head_(head),
        scale_(1 / std::sqrt(static_cast<double>(query.extent(3)))) {
    for (index_t block = 0; block < blocks(); ++block) chosen_.push_back(choice(block));
  }

  /// Adds the output and the log-sum-exp of a query.
  void attend(index_t i, lsg_result& result) const {
    row_type sum(static_cast<std::size_t>(value_.extent(3)));
    double weight_sum = 0;
    for (auto const& [k, v] : seen_by(i)) {
      double const weight = std::exp(scale_ * product(query(i), k));
      weight_sum += weight;
      for (std::size_t c = 0; c < v.size(); ++c) sum[c] += weight * v[c];
    }
    for (double x : sum) result.output.push_back(weight_sum > 0 ? x / weight_sum : 0);
    result.log_sum_exp.push_back(std::log(weight_sum));
  }

 private:
  using row_type = std::vector<double>;
  using pair = std::pair<row_type, row_type>;  // a key and a value

  index_t tokens() const { return query_.extent(2); }
  index_t blocks() const { return (tokens() + settings_.block - 1) / settings_.block; }
  index_t rows() const { return settings_.block / settings_.factor; }

  row_type row(tensor_view<T const, 4> x, index_t j) const {
    row_type elements;
    index_t const head = head_ / (query_.extent(1) / x.extent(1));
    for (index_t c = 0; c < x.extent(3); ++c) elements.push_back(static_cast<double>(x(batch_, head, j, c)));
    return elements;
  }
  row_type query(index_t i) const { return row(query_, i); }
  pair token(index_t j) const { return {row(key_, j), row(value_, j)}; }
  bool is_there(index_t j) const { return j >= settings_.global && j < tokens() && settings_.attended(batch_, j); }

  static double product(row_type const& a, row_type const& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  }

  /// The rows that a block's choice leaves.
  std::vector<pair> choice(index_t block) const {
    index_t const first = block * settings_.block;
    std::vector<index_t> members;  // of the block, those that are there
    for (index_t j = first; j < first + settings_.block; ++j)
      if (is_there(j)) members.push_back(j);
    switch (settings_.rule) {
      case lsg_rule::stride:
      case lsg_rule::block_stride:
        return strided(first, members);
      case lsg_rule::norm:
        return largest(members);
      default:
        return pooled(members);
    }
  }

  std::vector<pair> strided(index_t first, std::vector<index_t> const& members) const {
    std::vector<pair> chosen;
    for (index_t j : members)
      if (settings_.rule == lsg_rule::stride
              ? j % settings_.factor == head_ % settings_.factor
              : (j - first - head_ * rows() % settings_.block + settings_.block) % settings_.block < rows())
        chosen.push_back(token(j));
    return chosen;
  }

  /// The keys of largest norm.
  std::vector<pair> largest(std::vector<index_t> members) const {
    std::stable_sort(members.begin(), members.end(), [&](index_t a, index_t c) {
      return product(token(a).first, token(a).first) > product(token(c).first, token(c).first);
    });
    std::vector<pair> chosen;
    for (std::size_t i = 0; i < std::min(members.size(), static_cast<std::size_t>(rows())); ++i)
      chosen.push_back(token(members[i]));
    return chosen;
  }

  /// A mean for each group: of neighbors, or of the keys of a bucket.
  std::vector<pair> pooled(std::vector<index_t> const& members) const {
    std::map<index_t, std::vector<index_t>> groups;
    bool const by_hash = settings_.rule == lsg_rule::lsh && settings_.factor > 1;
    for (index_t j : members) groups[by_hash ? bucket(j) : j / settings_.factor].push_back(j);
    std::vector<pair> chosen;
    for (auto const& [number, group] : groups) chosen.push_back(mean(group));
    return chosen;
  }

  index_t bucket(index_t j) const {
    row_type const key = token(j).first;
    index_t found = j / settings_.factor;
    double best = -1;
    for (index_t hash = 0; hash < rows() / 2; ++hash) {
      double x = 0;
      for (std::size_t c = 0; c < key.size(); ++c)
        x += key[c] * static_cast<double>(settings_.directions(head_, hash, static_cast<index_t>(c)));
      if (std::abs(x) > best) best = std::abs(x), found = x >= 0 ? hash : hash + rows() / 2;
    }
    return found;
  }

  /// The mean of a group, by the weights of the first query where the rule says so.
  pair mean(std::vector<index_t> const& group) const {
    double weight_sum = 0;
    pair mean{row_type(static_cast<std::size_t>(key_.extent(3))), row_type(static_cast<std::size_t>(value_.extent(3)))};
    for (index_t j : group) {
      pair const one = token(j);
      double const weight =
          settings_.rule == lsg_rule::bos_pooling ? std::exp(scale_ * product(query(0), one.first)) : 1.0;
      weight_sum += weight;
      for (std::size_t c = 0; c < mean.first.size(); ++c) mean.first[c] += weight * one.first[c];
      for (std::size_t c = 0; c < mean.second.size(); ++c) mean.second[c] += weight * one.second[c];
    }
    for (double& x : mean.first) x /= weight_sum;
    for (double& x : mean.second) x /= weight_sum;
    return mean;
  }

  /// The tokens near a query and the global ones, and the chosen rows of the blocks beyond.
  std::vector<pair> seen_by(index_t i) const {
    std::vector<pair> seen;
    index_t const block = i / settings_.block;
    bool const everything = i < settings_.global || tokens() <= 2 * settings_.block;
    for (index_t j = 0; j < tokens(); ++j) {
      bool const near = j < settings_.global || std::abs(j / settings_.block - block) <= 1;
      if (settings_.attended(batch_, j) && (everything || near) && (!settings_.causal || j <= i))
        seen.push_back(token(j));
    }
    for (index_t other = 0; !everything && other < blocks(); ++other) {
      index_t const apart = other - block;
      if ((apart <= -2 && apart >= -1 - settings_.factor) ||
          (!settings_.causal && apart >= 2 && apart <= 1 + settings_.factor))
        for (pair const& one : chosen_[static_cast<std::size_t>(other)]) seen.push_back(one);
    }
    return seen;
  }

  tensor_view<T const, 4> query_, key_, value_;
  lsg_setting const& settings_;
  index_t batch_, head_;
  double scale_;
  std::vector<std::vector<pair>> chosen_;  // of each block
};

template <class T>
lsg_result lsg_attention(tensor_view<T const, 4> query, tensor_view<T const, 4> key, tensor_view<T const, 4> value,
                         lsg_setting const& settings) {
  lsg_result result;
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < query.extent(1); ++h) {
      lsg_head<T> const head(query, key, value, settings, b, h);
      for (index_t i = 0; i < query.extent(2); ++i) head.attend(i, result);
    }
  return result;
}

}  // namespace attend::inline ATTEND_TARGET::reference
