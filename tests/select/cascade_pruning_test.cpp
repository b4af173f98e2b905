// SPDX-License-Identifier: BSD-3-Clause
// Cascade pruning: a model of three layers that decodes, against lists of tokens and sums of weights in double; a token
// that a layer has dropped is in no later layer; heads by the magnitudes of their outputs; wrong input.
#include <attend/attention/cached/accumulate_weights.hpp>
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/attention/sparse_decode/spatten_attention.hpp>
#include <attend/cache/evicting.hpp>
#include <attend/select/cascade_pruning.hpp>

#include <map>
#include <set>

#include "support/cached_tokens.hpp"

namespace attend {
using namespace caches;
using namespace extend;
using namespace systems;
using namespace options;

namespace {

using test::expect_error;
using test::sizes;
using test::tokens_of;

constexpr index_t layers = 3, heads = 4, key_heads = 2, dimension = 8, steps = 60;
constexpr cascade_tokens keeps[layers] = {{.heaviest = 20, .first = 4, .recent = 5},
                                          {.heaviest = 10, .first = 4, .recent = 5},
                                          {.heaviest = 14, .first = 4, .recent = 5}};

/// Weights of one query of each head over some tokens of a layer, in double, added to the sums of the tokens.
void add_weights(test::inputs<float> const& in, index_t token, std::set<index_t> const& kept,
                 std::vector<double>& importance) {
  for (index_t h = 0; h < heads; ++h) {
    std::map<index_t, double> weight;
    double sum = 0;
    for (index_t j : kept) {
      double s = 0;
      for (index_t c = 0; c < dimension; ++c)
        s += static_cast<double>(in.query.view()(0, h, token, c)) *
             static_cast<double>(in.key.view()(0, h / (heads / key_heads), j, c));
      sum += weight[j] = std::exp(s / std::sqrt(static_cast<double>(dimension)));
    }
    for (auto const& [j, w] : weight) importance[static_cast<std::size_t>(j)] += w / sum;
  }
}

// Before each layer of each step, the layer's cache drops what earlier layers have dropped and what it does not keep.
TEST(CascadePruning, FollowsItsDefinition) {
  sizes const s{1, heads, key_heads, key_heads, steps, steps, dimension, dimension};
  std::vector<test::inputs<float>> in;
  std::vector<evicting_cache<float>> cache;
  for (unsigned layer = 0; layer < layers; ++layer) {
    in.push_back(test::random_inputs<float>(s, layer + 1));
    cache.emplace_back(test::shape_of(s), paging{.pages = 100, .page_tokens = 4});
  }
  cascade_pruning pruning(1, steps);
  std::vector<std::set<index_t>> kept(layers);
  std::vector<double> importance(steps, 0.);
  auto output = test::filled<float, 4>({1, heads, 1, dimension}, 7);
  auto lse = test::filled<float, 3>({1, heads, 1}, 7);
  index_t dropped = 0;
  for (index_t token = 0; token < steps; ++token)
    for (std::size_t layer = 0; layer < layers; ++layer) {
      auto& mine = kept[layer];
      for (std::size_t before = 0; before < layer; ++before)
        std::erase_if(mine, [&](index_t j) { return !kept[before].count(j); });
      std::vector<index_t> between;
      for (index_t j : mine)
        if (j >= 4 && j < token - 5) between.push_back(j);
      std::stable_sort(between.begin(), between.end(), [&](index_t a, index_t b) {
        return importance[static_cast<std::size_t>(a)] > importance[static_cast<std::size_t>(b)];
      });
      for (std::size_t i = static_cast<std::size_t>(keeps[layer].heaviest); i < between.size(); ++i)
        mine.erase(between[i]), ++dropped;
      mine.insert(token);
      add_weights(in[layer], token, mine, importance);

      pruning.prune(cache[layer], static_cast<index_t>(layer), keeps[layer], 1);
      auto const query = tokens_of(in[layer].query, token, 1);
      cached_attention(cache[layer], query, tokens_of(in[layer].key, token, 1), tokens_of(in[layer].value, token, 1),
                       output.view(), log_sum_exp(lse.view()));
      accumulate_weights(query, lse.view(), cache[layer]);
      pruning.add_weights(cache[layer]);
      for (index_t head = 0; head < key_heads; ++head) {
        std::set<index_t> got;
        for (index_t row = 0; row < cache[layer].stored(0, head); ++row)
          got.insert(cache[layer].positions(0, head, row)[0]);
        ASSERT_EQ(got, mine) << "token " << token << ", layer " << layer;
      }
    }
  EXPECT_GT(dropped, 30);
  for (index_t j = 0; j < steps; ++j)
    EXPECT_NEAR(static_cast<double>(pruning.importance(0)[static_cast<std::size_t>(j)]),
                importance[static_cast<std::size_t>(j)], test::tolerance<float>(layers * heads * steps / 10.));
  // What layer 1 dropped, layer 2 has dropped too.
  for (index_t j = 0; j < steps; ++j) EXPECT_TRUE(kept[1].count(j) || !kept[2].count(j));
  pruning.clear(0);
  EXPECT_EQ(pruning.importance(0)[3], 0);
  EXPECT_EQ(pruning.dropped_by(0, 10), cascade_pruning::layer_limit);
}

// With planes of bits the step itself leaves its weights as scores.
TEST(CascadePruning, TakesTheWeightsOfSpatten) {
  sizes const s{1, heads, key_heads, key_heads, 40, 40, dimension, dimension};
  auto const in = test::random_inputs<float>(s, 5);
  bit_plane_cache<> cache(test::shape_of(s), {.pages = 100, .page_tokens = 4});
  cache.append(in.key.view(), in.value.view());
  cascade_pruning pruning(1, 50);
  auto output = test::filled<float, 4>({1, heads, 1, dimension}, 7);
  spatten_attention(tokens_of(in.query, 39, 1), cache, output.view(), {});
  pruning.add_weights(cache);
  auto const importance = pruning.importance(0);
  EXPECT_NEAR(std::accumulate(importance.begin(), importance.end(), 0.), heads, heads * 1e-5);
  EXPECT_EQ(cache.scores(0, 0, 0)[0], 0);
  index_t const gone = pruning.prune(cache, 0, {.heaviest = 10, .first = 4, .recent = 6}, 1);
  EXPECT_EQ(gone, 20 * key_heads);
  for (index_t head = 0; head < key_heads; ++head) {
    EXPECT_EQ(cache.first().stored(0, head), 20);
    EXPECT_EQ(cache.second().stored(0, head), 20);
  }
  EXPECT_EQ(pruning.prune(cache, 0, {.heaviest = 1}, 1), 0);
}

TEST(CascadeHeads, KeepThoseOfLargestOutputs) {
  cascade_heads<float> each(2, 4), pairs(2, 4, 2);
  auto output = test::filled<float, 4>({2, 4, 3, 2}, 0);
  for (index_t s = 0; s < 2; ++s)
    for (index_t h = 0; h < 4; ++h)
      for (index_t i = 0; i < 3; ++i)
        for (index_t c = 0; c < 2; ++c)
          output.view()(s, h, i, c) = (c ? -1.f : 1.f) * static_cast<float>(s ? h : 3 - h);
  each.add_outputs(output.view()), each.add_outputs(output.view()), pairs.add_outputs(output.view());
  EXPECT_EQ(each.importance()(1, 3), 2 * 3 * 2 * 3);
  each.keep(3), pairs.keep(2);
  auto const gates = [](cascade_heads<float> const& of, index_t s) {
    return std::vector<float>(&of.gates()(s, 0), &of.gates()(s, 0) + 4);
  };
  EXPECT_EQ(gates(each, 0), (std::vector<float>{1, 1, 1, 0}));
  EXPECT_EQ(gates(each, 1), (std::vector<float>{0, 1, 1, 1}));
  EXPECT_EQ(gates(pairs, 0), (std::vector<float>{1, 1, 0, 0}));
  EXPECT_EQ(gates(pairs, 1), (std::vector<float>{0, 0, 1, 1}));
  // A head that was dropped does not return, whatever is added.
  for (float& x : output.elements) x = 0;
  output.view()(1, 0, 0, 0) = 1000;
  each.add_outputs(output.view());
  each.keep(3);
  EXPECT_EQ(gates(each, 1), (std::vector<float>{0, 1, 1, 1}));
  each.keep(1);
  EXPECT_EQ(gates(each, 1), (std::vector<float>{0, 0, 0, 1}));
  each.clear(1);
  EXPECT_EQ(gates(each, 1), (std::vector<float>{1, 1, 1, 1}));
}

TEST(CascadePruning, RefusesWhatDoesNotFit) {
  evicting_cache<float> cache({1, 2, 4, 4}, {.pages = 20, .page_tokens = 4}), two({2, 2, 4, 4}, {.pages = 20});
  auto const rows = test::filled<float, 4>({1, 2, 9, 4}, 1);
  cache.append(rows.view(), rows.view());
  cascade_pruning pruning(1, 9), few(1, 8);
  expect_error("cache: expected sequences 1 (as cascade_pruning), got 2", [&] { pruning.add_weights(two); });
  expect_error("cache: expected at most 8 tokens (cascade_pruning), got 9 of sequence 0",
               [&] { few.prune(cache, 0, {}); });
  expect_error("layer: expected from 0 to 2147483646, got -1", [&] { pruning.prune(cache, -1, {}); });
  expect_error("cascade_tokens: expected numbers of at least 0 tokens, got -2",
               [&] { pruning.prune(cache, 0, {.heaviest = -2}); });
  expect_error("slack: expected at least 1 token, got 0", [&] { pruning.prune(cache, 0, {}, 0); });
  EXPECT_EQ(cache.stored(0, 0), 9);
  expect_error("cascade_heads: expected a divisor of 4 heads that are kept together, got 3",
               [] { cascade_heads<float>(1, 4, 3); });
  cascade_heads<float> pairs(1, 4, 2);
  expect_error("count: expected at least 0 heads, 2 together, got 3", [&] { pairs.keep(3); });
  expect_error("output: expected heads 4 (as cascade_heads), got 2", [&] { pairs.add_outputs(rows.view()); });
}

}  // namespace
}  // namespace attend
