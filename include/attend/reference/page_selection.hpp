// SPDX-License-Identifier: BSD-3-Clause
// Choosing pages by definition: the score of every page for every query head by a given formula, a full sort, and the
// set of tokens that are seen. In double, one page after the other.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::reference {

using number_row = std::vector<double>;
/// Which page is scored, for which query.
struct scored_page {
  index_t head, key_head, page, query_position;
};
/// The score of a page for a query.
using page_score =
    std::function<double(number_row const& query, std::vector<number_row> const& keys_of_page, scored_page const& at)>;

// The papers' scores.
inline double dot_product(number_row const& a, number_row const& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}
/// Quest.
inline double bound_of_page(number_row const& query, std::vector<number_row> const& keys, scored_page const&) {
  double bound = 0;
  for (std::size_t c = 0; c < query.size(); ++c) {
    double most = -infinity<double>, least = infinity<double>;
    for (number_row const& key : keys) most = std::max(most, key[c]), least = std::min(least, key[c]);
    bound += std::max(query[c] * most, query[c] * least);
  }
  return bound;
}
/// MoBA and Kinetics: the mean of the logits.
inline double mean_of_page(number_row const& query, std::vector<number_row> const& keys, scored_page const&) {
  double sum = 0;
  for (number_row const& key : keys) sum += dot_product(query, key);
  return sum / static_cast<double>(keys.size());
}
/// Landmark attention at inference.
inline double last_of_page(number_row const& query, std::vector<number_row> const& keys, scored_page const&) {
  return dot_product(query, keys.back());
}

/// Loki: the first channels.
inline page_score leading_channels(index_t rank) {
  return [rank](number_row const& query, std::vector<number_row> const& keys, scored_page const&) {
    return std::inner_product(query.begin(), query.begin() + rank, keys[0].begin(), 0.0);
  };
}
/// SeerAttention: pooled keys and the query, projected and rotated (in halves) for where their blocks begin. Weights
/// [head][rows][gate dimension].
inline page_score gate_of_page(std::vector<std::vector<number_row>> query_weight,
                               std::vector<std::vector<number_row>> key_weight, index_t page_tokens) {
  return [=](number_row const& query, std::vector<number_row> const& keys, scored_page const& at) {
    auto const project = [](number_row const& x, std::vector<number_row> const& weight, index_t position) {
      number_row y(weight[0].size(), 0.0), turned;
      for (std::size_t i = 0; i < x.size(); ++i)
        for (std::size_t c = 0; c < y.size(); ++c) y[c] += x[i] * weight[i][c];
      turned = y;
      std::size_t const pairs = y.size() / 2;
      for (std::size_t i = 0; i < pairs; ++i) {
        double const angle =
            static_cast<double>(position) * std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(pairs));
        turned[i] = y[i] * std::cos(angle) - y[pairs + i] * std::sin(angle);
        turned[pairs + i] = y[pairs + i] * std::cos(angle) + y[i] * std::sin(angle);
      }
      return turned;
    };
    number_row pooled;
    for (int kind = 0; kind < 3; ++kind)
      for (std::size_t c = 0; c < query.size(); ++c) {
        double most = -infinity<double>, least = infinity<double>, sum = 0;
        for (number_row const& key : keys)
          most = std::max(most, key[c]), least = std::min(least, key[c]), sum += key[c];
        pooled.push_back(kind == 0 ? most : kind == 1 ? least : sum / static_cast<double>(keys.size()));
      }
    auto const head = [](auto const& weight, index_t h) {
      return weight[weight.size() == 1 ? 0 : static_cast<std::size_t>(h)];
    };
    return dot_product(project(query, head(query_weight, at.head), at.query_position / page_tokens * page_tokens),
                       project(pooled, head(key_weight, at.key_head), at.page * page_tokens));
  };
}

struct page_rule {
  page_score score = mean_of_page;
  index_t page_tokens = 1;
  /// Tokens, and pages, that are taken in any case.
  index_t first_tokens = 0, last_tokens = 0, first_pages = 0, last_pages = 0;
  /// Pages that are chosen beside those.
  index_t pages = 0;
  /// Queries of so many heads choose together, by the largest or the mean of their scores.
  index_t heads_per_group = 1;
  bool by_mean = false;
};

/// seen[batch][query head][token]; query [batch, query head, query, dimension], key [batch, key head, key, dimension].
inline std::vector<std::vector<std::vector<bool>>> select_pages(tensor_view<double const, 4> query,
                                                                tensor_view<double const, 4> key,
                                                                page_rule const& rule) {
  index_t const heads = query.extent(1), tokens = key.extent(2), dimension = key.extent(3), page = rule.page_tokens;
  index_t const pages = (tokens + page - 1) / page;
  auto const row_of = [&](tensor_view<double const, 4> const& all, index_t b, index_t h, index_t i) {
    number_row row;
    for (index_t c = 0; c < dimension; ++c) row.push_back(all(b, h, i, c));
    return row;
  };
  std::vector<std::vector<std::vector<bool>>> seen;
  for (index_t b = 0; b < query.extent(0); ++b) {
    seen.emplace_back();
    for (index_t h = 0; h < heads; ++h) {
      index_t const key_head = h / (heads / key.extent(1));
      index_t const first_head = h / rule.heads_per_group * rule.heads_per_group;
      std::vector<double> score;
      std::vector<bool> sees(static_cast<std::size_t>(tokens), false);
      for (index_t p = 0; p < pages; ++p) {
        std::vector<number_row> keys;
        bool all_forced = p < rule.first_pages || p >= pages - rule.last_pages, some_free = false;
        for (index_t t = p * page; t < std::min((p + 1) * page, tokens); ++t) {
          keys.push_back(row_of(key, b, key_head, t));
          bool const forced = all_forced || t < rule.first_tokens || t >= tokens - rule.last_tokens;
          sees[static_cast<std::size_t>(t)] = forced;
          some_free = some_free || !forced;
        }
        double most = -infinity<double>, sum = 0;
        for (index_t other = first_head; other < first_head + rule.heads_per_group; ++other)
          for (index_t i = 0; i < query.extent(2); ++i) {
            double const s =
                rule.score(row_of(query, b, other, i), keys, {other, key_head, p, tokens - query.extent(2) + i});
            most = std::max(most, s);
            sum += s;
          }
        // A page that is taken in any case is no candidate.
        score.push_back(!some_free ? std::numeric_limits<double>::quiet_NaN() : rule.by_mean ? sum : most);
      }
      std::vector<index_t> order;
      for (index_t p = 0; p < pages; ++p)
        if (!std::isnan(score[static_cast<std::size_t>(p)])) order.push_back(p);
      std::stable_sort(order.begin(), order.end(), [&](index_t x, index_t y) {
        return score[static_cast<std::size_t>(x)] > score[static_cast<std::size_t>(y)];
      });
      order.resize(static_cast<std::size_t>(std::clamp<index_t>(rule.pages, 0, static_cast<index_t>(order.size()))));
      for (index_t p : order)
        for (index_t t = p * page; t < std::min((p + 1) * page, tokens); ++t) sees[static_cast<std::size_t>(t)] = true;
      seen.back().push_back(sees);
    }
  }
  return seen;
}

}  // namespace attend::inline ATTEND_TARGET::reference
