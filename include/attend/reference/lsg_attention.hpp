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

template <class T>
lsg_result lsg_attention(tensor_view<T const, 4> query, tensor_view<T const, 4> key, tensor_view<T const, 4> value,
                         lsg_setting const& settings) {
  using row_type = std::vector<double>;
  using pair = std::pair<row_type, row_type>;  // a key and a value
  lsg_result result;
  index_t const heads = query.extent(1), tokens = query.extent(2), rows = settings.block / settings.factor;
  double const scale = 1 / std::sqrt(static_cast<double>(query.extent(3)));
  auto const row = [](tensor_view<T const, 4> x, index_t b, index_t h, index_t j) {
    row_type elements;
    for (index_t c = 0; c < x.extent(3); ++c) elements.push_back(static_cast<double>(x(b, h, j, c)));
    return elements;
  };
  auto const product = [](row_type const& a, row_type const& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  for (index_t b = 0; b < query.extent(0); ++b)
    for (index_t h = 0; h < heads; ++h) {
      auto const token = [&](index_t j) {
        return pair{row(key, b, h / (heads / key.extent(1)), j), row(value, b, h / (heads / value.extent(1)), j)};
      };
      auto const there = [&](index_t j) { return j >= settings.global && j < tokens && settings.attended(b, j); };
      // Weighted means of the tokens of a group that are there.
      auto const pooled = [&](std::vector<index_t> const& group, std::function<double(index_t)> const& weight) {
        double weight_sum = 0;
        pair mean{row_type(static_cast<std::size_t>(key.extent(3))),
                  row_type(static_cast<std::size_t>(value.extent(3)))};
        for (index_t j : group) {
          double const w = weight(j);
          weight_sum += w;
          pair const one = token(j);
          for (std::size_t c = 0; c < mean.first.size(); ++c) mean.first[c] += w * one.first[c];
          for (std::size_t c = 0; c < mean.second.size(); ++c) mean.second[c] += w * one.second[c];
        }
        for (double& x : mean.first) x /= weight_sum;
        for (double& x : mean.second) x /= weight_sum;
        return mean;
      };
      auto const choice = [&](index_t block) {
        std::vector<pair> chosen;
        std::vector<index_t> members;  // of the block, those that are there
        index_t const first = block * settings.block;
        for (index_t j = first; j < first + settings.block; ++j)
          if (there(j)) members.push_back(j);
        if (settings.rule == lsg_rule::stride || settings.rule == lsg_rule::block_stride) {
          for (index_t j : members)
            if (settings.rule == lsg_rule::stride
                    ? j % settings.factor == h % settings.factor
                    : (j - first - h * rows % settings.block + settings.block) % settings.block < rows)
              chosen.push_back(token(j));
        } else if (settings.rule == lsg_rule::norm) {
          std::stable_sort(members.begin(), members.end(), [&](index_t a, index_t c) {
            return product(token(a).first, token(a).first) > product(token(c).first, token(c).first);
          });
          for (std::size_t i = 0; i < std::min(members.size(), static_cast<std::size_t>(rows)); ++i)
            chosen.push_back(token(members[i]));
        } else {
          std::map<index_t, std::vector<index_t>> groups;
          for (index_t j : members) {
            index_t group = j / settings.factor;
            if (settings.rule == lsg_rule::lsh && settings.factor > 1) {
              double best = -1;
              for (index_t hash = 0; hash < rows / 2; ++hash) {
                double x = 0;
                for (index_t c = 0; c < key.extent(3); ++c)
                  x += token(j).first[static_cast<std::size_t>(c)] *
                       static_cast<double>(settings.directions(h, hash, c));
                if (std::abs(x) > best) best = std::abs(x), group = x >= 0 ? hash : hash + rows / 2;
              }
            }
            groups[group].push_back(j);
          }
          for (auto const& [number, group] : groups)
            chosen.push_back(pooled(group, [&](index_t j) {
              return settings.rule == lsg_rule::bos_pooling
                         ? std::exp(scale * product(row(query, b, h, 0), token(j).first))
                         : 1.0;
            }));
        }
        return chosen;
      };
      index_t const blocks = (tokens + settings.block - 1) / settings.block;
      std::vector<std::vector<pair>> chosen;
      for (index_t block = 0; block < blocks; ++block) chosen.push_back(choice(block));

      for (index_t i = 0; i < tokens; ++i) {
        std::vector<pair> seen;
        index_t const block = i / settings.block;
        bool const everything = i < settings.global || tokens <= 2 * settings.block;
        for (index_t j = 0; j < tokens; ++j) {
          bool const near = j < settings.global || std::abs(j / settings.block - block) <= 1;
          if (settings.attended(b, j) && (everything || near) && (!settings.causal || j <= i)) seen.push_back(token(j));
        }
        for (index_t other = 0; !everything && other < blocks; ++other) {
          index_t const apart = other - block;
          if ((apart <= -2 && apart >= -1 - settings.factor) ||
              (!settings.causal && apart >= 2 && apart <= 1 + settings.factor))
            for (pair const& one : chosen[static_cast<std::size_t>(other)]) seen.push_back(one);
        }
        row_type sum(static_cast<std::size_t>(value.extent(3)));
        double weight_sum = 0;
        for (auto const& [k, v] : seen) {
          double const weight = std::exp(scale * product(row(query, b, h, i), k));
          weight_sum += weight;
          for (std::size_t c = 0; c < v.size(); ++c) sum[c] += weight * v[c];
        }
        for (double x : sum) result.output.push_back(weight_sum > 0 ? x / weight_sum : 0);
        result.log_sum_exp.push_back(std::log(weight_sum));
      }
    }
  return result;
}

}  // namespace attend::inline ATTEND_TARGET::reference
