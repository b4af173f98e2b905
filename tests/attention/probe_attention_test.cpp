// SPDX-License-Identifier: BSD-3-Clause
// ActQKV: biases, probes, pages and budgets against their formulas in double; known cases; wrong input.
#include <attend/attention/sparse_decode/mean_page_selector.hpp>
#include <attend/attention/sparse_decode/probe_attention.hpp>
#include <set>

#include "support/cached_tokens.hpp"

namespace attend {
using namespace options;
using namespace selection;
using namespace systems;
using namespace extend;

namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;

sizes const size{2, 6, 2, 2, 7, 120, 12, 10};
page_selector_options const pages{.page_tokens = 8, .budget = {.tokens = 60, .first = 4, .last = 20}};

std::vector<double> bias_of(test::inputs<float> const& in, index_t s) {
  std::vector<std::vector<double>> row;  // of all heads
  for (index_t i = 0; i < size.queries; ++i) {
    row.emplace_back();
    for (index_t h = 0; h < size.query_heads; ++h)
      for (index_t c = 0; c < size.key_dimension; ++c)
        row.back().push_back(static_cast<double>(in.query.view()(s, h, i, c)));
  }
  std::size_t const channels = row[0].size();
  auto const n = static_cast<double>(size.queries);
  std::vector<double> mean(channels, 0), variance(channels, 0), bias;
  double of_all = 0, sum = 0;
  for (std::size_t c = 0; c < channels; ++c) {
    for (auto const& x : row) mean[c] += x[c] / n;
    for (auto const& x : row) variance[c] += std::pow(x[c] - mean[c], 2) / n;
    of_all += variance[c] / static_cast<double>(channels);
  }
  for (auto const& x : row) {
    double one = 0;
    for (std::size_t c = 0; c < channels; ++c)
      one += std::pow(x[c] - mean[c], 2) / (variance[c] + 0.01 * of_all) / static_cast<double>(channels);
    bias.push_back(one);
    sum += one;
  }
  for (double& one : bias) one /= sum;
  return bias;
}

/// The largest of the group's logits of a page's mean key, for weighted means of the queries.
double page_score(test::inputs<float> const& in, std::vector<double> const& weight, index_t s, index_t head,
                  index_t page) {
  double most = -1e300, sum = 0;
  for (double w : weight) sum += w;
  for (index_t h = head * 3; h < head * 3 + 3; ++h) {
    double score = 0;
    for (index_t c = 0; c < size.key_dimension; ++c) {
      double probe = 0, key = 0;
      for (index_t i = 0; i < size.queries; ++i)
        probe += weight[static_cast<std::size_t>(i)] / sum * in.query.view()(s, h, i, c);
      index_t const last = std::min(page * 8 + 8, size.keys);
      for (index_t j = page * 8; j < last; ++j)
        key += in.key.view()(s, head, j, c) / static_cast<double>(last - page * 8);
      score += probe * key;
    }
    most = std::max(most, score);
  }
  return most;
}

struct window {
  test::inputs<float> in = test::random_inputs<float>(size, 1);
  contiguous_cache<float> cache{shape_of(size), size.keys};
  mean_page_selector<float> selector{shape_of(size), size.query_heads, size.keys, pages};
  test::tensor<float, 4> output = test::filled<float, 4>({2, 6, 7, 10}, 7);
  std::vector<float> weight = std::vector<float>(2 * 7);
  tensor_view<float, 2> const weights{weight.data(), {2, 7}};

  window() {
    cache.append(in.key.view(), in.value.view());
    selector.update(cache);
  }
};

TEST(ProbeAttention, SeesThePagesOfTheProbe) {
  for (bool by_activation : {true, false}) {
    window w;
    if (by_activation)
      activation_weights(w.in.query.view(), w.weights);
    else
      for (std::size_t i = 0; i < w.weight.size(); ++i) w.weight[i] = static_cast<float>(i % 3);
    probe_attention(w.in.query.view(), w.weights, w.cache, w.selector, w.output.view());
    for (index_t s = 0; s < 2; ++s) {
      std::vector<double> weight(w.weight.begin() + s * 7, w.weight.begin() + s * 7 + 7);
      if (by_activation) {
        auto const exact = bias_of(w.in, s);
        EXPECT_TRUE(test::near(weight, exact, 1e-6));
        weight = exact;
      }
      for (index_t head = 0; head < 2; ++head) {
        // 36 tokens remain for pages between the first and the last ones, which are 5 of them, rounded up.
        std::vector<std::pair<double, index_t>> ranked;
        for (index_t page = 0; page < 13; ++page) ranked.emplace_back(-page_score(w.in, weight, s, head, page), page);
        std::sort(ranked.begin(), ranked.end());
        std::set<index_t> seen;
        for (index_t j = 0; j < size.keys; ++j)
          if (j < 4 || j >= 100) seen.insert(j);
        for (std::size_t i = 0; i < 5; ++i)
          for (index_t j = ranked[i].second * 8; j < ranked[i].second * 8 + 8; ++j) seen.insert(j);
        auto const list = w.selector.lists()(s, head);
        EXPECT_EQ(std::vector<index_t>(list.begin(), list.end()), std::vector<index_t>(seen.begin(), seen.end()));
        for (index_t h = head * 3; h < head * 3 + 3; ++h)
          for (index_t i = 0; i < 7; ++i) {
            std::vector<double> expected(10, 0.0);
            double sum = 0;
            for (index_t j : seen) {
              if (j > size.keys - 7 + i) continue;
              double logit = 0;
              for (index_t c = 0; c < 12; ++c) logit += w.in.query.view()(s, h, i, c) * w.in.key.view()(s, head, j, c);
              double const one = std::exp(logit / std::sqrt(12.0));
              sum += one;
              for (index_t c = 0; c < 10; ++c)
                expected[static_cast<std::size_t>(c)] += one * w.in.value.view()(s, head, j, c);
            }
            for (double& x : expected) x /= sum;
            float const* const got = &w.output.view()(s, h, i, 0);
            EXPECT_TRUE(test::near(std::vector<float>(got, got + 10), expected,
                                   test::tolerance<float>(test::largest_magnitude(w.in.value.elements))));
          }
      }
    }
  }
}

TEST(ProbeAttention, ScoresAllPagesOfALayer) {
  window w;
  auto probe = test::filled<float, 4>({2, 6, 1, 12}, 7);
  std::fill(w.weight.begin(), w.weight.end(), 1.f);
  probe_queries(w.in.query.view(), w.weights, probe.view());
  std::vector<float> scores(15);
  std::vector<double> expected;
  ASSERT_EQ(w.selector.score_pages(std::as_const(probe).view(), 1, 1, scores), 15);
  double sum = 0, entropy = 0;
  for (index_t page = 0; page < 15; ++page)
    expected.push_back(page_score(w.in, std::vector<double>(7, 1.0), 1, 1, page));
  EXPECT_TRUE(test::near(scores, expected, test::tolerance<float>(12)));
  for (double x : expected) sum += std::exp(x);
  for (double x : expected) entropy -= std::exp(x) / sum * std::log(std::exp(x) / sum);
  EXPECT_NEAR(information_density(scores), entropy / std::log(15), 1e-5);
  // A budget of everything is causal attention.
  w.selector.set_budget({.tokens = size.keys});
  probe_attention(w.in.query.view(), w.weights, w.cache, w.selector, w.output.view());
  auto all = test::filled<float, 4>({2, 6, 7, 10}, 7);
  softmax_attention(w.in.query.view(), w.cache, all.view(), causal{});
  EXPECT_TRUE(test::near(w.output.elements, all.elements,
                         test::tolerance<float>(test::largest_magnitude(w.in.value.elements))));
}

TEST(ProbeAttention, KnowsTheLimits) {
  auto equal = test::filled<float, 4>({1, 2, 4, 3}, 5);
  std::vector<float> weight(4, 9.f);
  activation_weights(std::as_const(equal).view(), tensor_view<float, 2>(weight.data(), {1, 4}));
  EXPECT_EQ(weight, std::vector<float>(4, 0.25f));
  // Weights need not be small for queries that are large.
  auto const large = test::filled<float, 4>({1, 2, 4, 3}, 2e38f);
  auto probe = test::filled<float, 4>({1, 2, 1, 3}, 7);
  std::vector<float> const ones(4, 1.f);
  probe_queries(large.view(), tensor_view<float const, 2>(ones.data(), {1, 4}), probe.view());
  for (float x : probe.elements) EXPECT_FLOAT_EQ(x, 2e38f);
  std::vector<float> const same(8, 3.f), one{100, 0, 0, 0}, single{1}, bad{std::nanf(""), 2, 2, -infinity<float>};
  EXPECT_NEAR(information_density(same), 1, 1e-12);
  EXPECT_NEAR(information_density(one), 0, 1e-12);
  EXPECT_EQ(information_density(single), 0);
  EXPECT_NEAR(information_density(bad), 0.5, 1e-12);
  std::vector<index_t> budgets(4);
  density_budgets(1000, std::vector<double>{0.5, 0.25, 0.125, 0.125}, 0, 1000, budgets);
  EXPECT_EQ(budgets, (std::vector<index_t>{500, 250, 125, 125}));
  // What the bounds take away is divided among the others.
  density_budgets(1000, std::vector<double>{0.8, 0.1, 0.1, 0.0}, 50, 400, budgets);
  EXPECT_EQ(budgets, (std::vector<index_t>{400, 300, 300, 50}));
  density_budgets(100, std::vector<double>{0, 0, 0, 0}, 0, 100, budgets);
  EXPECT_EQ(budgets, (std::vector<index_t>{25, 25, 25, 25}));
}

TEST(ProbeAttention, SaysWhatIsWrong) {
  window w;
  auto const before = w.output.elements;
  auto const call = [&](tensor_view<float, 2> const& weights) {
    probe_attention(w.in.query.view(), weights, w.cache, w.selector, w.output.view());
  };
  expect_error("weights: expected tokens 7 (as query), got 6", [&] { call({w.weight.data(), {2, 6}}); });
  expect_error("weights: expected a sum above 0 (sequence 0), got 0", [&] { call(w.weights); });
  w.weight[3] = -1;
  expect_error("weights: expected numbers of at least 0, got -1", [&] { call(w.weights); });
  EXPECT_EQ(w.output.elements, before);
  expect_error("weights: expected sequences 2 (as query), got 1",
               [&] { activation_weights(w.in.query.view(), tensor_view<float, 2>(w.weight.data(), {1, 7})); });
  auto two = test::filled<float, 4>({2, 6, 2, 12}, 7);
  w.weight[3] = 1;
  w.weight[10] = 1;
  expect_error("probe: expected tokens 1 (as one for a window), got 2",
               [&] { probe_queries(w.in.query.view(), w.weights, two.view()); });
  expect_error("weights: expected memory of its own, got memory that overlaps query", [&] {
    activation_weights(w.in.query.view(), tensor_view<float, 2>(&w.in.query.view()(0, 4, 3, 0), {2, 7}));
  });
  std::vector<float> scores(14);
  expect_error("to: expected room for 15 pages, got 14",
               [&] { w.selector.score_pages(w.in.query.view(), 0, 0, scores); });
  expect_error("list: expected from 0 to 1, got 2", [&] { w.selector.score_pages(w.in.query.view(), 0, 2, scores); });
  expect_error("budget: expected at least 0 tokens, got -1", [&] { w.selector.set_budget({.tokens = -1}); });
  std::vector<index_t> budgets(2);
  expect_error("budgets: expected numbers 3 (as densities), got 2",
               [&] { density_budgets(1, std::vector<double>(3), 0, 1, budgets); });
  expect_error("densities: expected numbers of at least 0, got -1",
               [&] { density_budgets(1, std::vector<double>{1, -1}, 0, 1, budgets); });
  expect_error("least: expected bounds that ascend from 0, got 2 and 1",
               [&] { density_budgets(1, std::vector<double>{1, 1}, 2, 1, budgets); });
}

}  // namespace
}  // namespace attend
