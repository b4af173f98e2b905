// SPDX-License-Identifier: BSD-3-Clause
// Maps of layers, their products, and flows through them against the least of all cuts.
#include <attend/attention/softmax/attention_flow.hpp>
#include <attend/attention/softmax/attention_rollout.hpp>
#include <attend/policy/mask/causal.hpp>

#include "support/argument_errors.hpp"

namespace attend::test {
namespace {

using namespace systems;

/// Maps of random numbers, of which a third is 0.
tensor<double, 3> random_maps(index_t layers, index_t tokens, unsigned seed) {
  auto maps = normal<double, 3>({layers, tokens, tokens}, seed);
  for (double& x : maps.elements) x = std::max(0.0, x + 0.4);
  return maps;
}

/// The least capacity of all cuts: of every set of nodes with the source and without the sink, what leaves it.
double least_cut(tensor<double, 3> const& maps, index_t from, index_t to) {
  index_t const layers = maps.extents[0], tokens = maps.extents[1], nodes = (layers + 1) * tokens;
  index_t const source = layers * tokens + from;
  double least = extend::infinity<double>;
  for (std::uint64_t set = 0; set < (std::uint64_t{1} << nodes); ++set) {
    auto const has = [&](index_t node) { return (set >> node & 1) != 0; };
    if (!has(source) || has(to)) continue;
    double cut = 0;
    for (index_t l = 0; l < layers; ++l)
      for (index_t i = 0; i < tokens; ++i)
        for (index_t j = 0; j < tokens; ++j)
          if (has((l + 1) * tokens + i) && !has(l * tokens + j)) cut += maps.view()(l, i, j);
    least = std::min(least, cut);
  }
  return least;
}

TEST(AttentionFlow, IsTheLeastCut) {
  unsigned seed = 0;
  for (auto const& [layers, tokens] : {std::pair<index_t, index_t>{1, 4}, {2, 4}, {3, 4}, {5, 2}, {2, 5}, {1, 1}}) {
    auto const maps = random_maps(layers, tokens, ++seed);
    std::vector<std::int64_t> outputs(static_cast<std::size_t>(tokens));
    std::iota(outputs.begin(), outputs.end(), 0);
    auto flow = filled<double, 2>({tokens, tokens}, 7);
    attention_flow(maps.view(), outputs, flow.view());
    for (index_t i = 0; i < tokens; ++i)
      for (index_t j = 0; j < tokens; ++j)
        EXPECT_NEAR(flow.view()(i, j), least_cut(maps, i, j), 1e-12) << layers << ' ' << tokens << ' ' << i << ' ' << j;
  }
}

// By hand: two ways of 0.25 and 0.5 from the upper token to the lower left one, of which a pipe back and forth makes no
// more.
TEST(AttentionFlow, ByHand) {
  tensor<double, 3> const maps{{2, 2, 2}, {0.25, 0.75, 0.5, 0.5, 0.4, 0.6, 0, 1}};
  auto flow = filled<double, 2>({1, 2}, 7);
  attention_flow(maps.view(), std::vector<std::int64_t>{0}, flow.view());
  EXPECT_DOUBLE_EQ(flow.view()(0, 0), 0.25 + 0.5);
  EXPECT_DOUBLE_EQ(flow.view()(0, 1), 0.4 + 0.5);
}

TEST(AttentionFlow, TakesTokensInAnyOrderAndThreads) {
  auto const maps = random_maps(3, 40, 5);
  std::vector<std::int64_t> const outputs{39, 0, 7, 7};
  auto alone = filled<double, 2>({4, 40}, 7), shared = alone;
  attention_flow(maps.view(), outputs, alone.view());
  attention_flow(maps.view(), outputs, shared.view(), threads{3});
  EXPECT_TRUE(same_bits(alone.elements, shared.elements));
  EXPECT_TRUE(std::equal(&alone.view()(2, 0), &alone.view()(2, 0) + 40, &alone.view()(3, 0)));
  // No more than what leaves the source and enters the sink.
  for (index_t j = 0; j < 40; ++j) {
    double leaves = 0, enters = 0;
    for (index_t m = 0; m < 40; ++m) leaves += maps.view()(2, 39, m), enters += maps.view()(0, m, j);
    EXPECT_LE(alone.view()(0, j), std::min(leaves, enters) + 1e-12);
  }
}

// Maps of a stack of layers: their product is what rollout gives without them.
TEST(AttentionFlow, MapsRollOutAsLayersDo) {
  sizes const s{.batches = 2, .query_heads = 4, .key_heads = 2, .queries = 23, .keys = 23};
  std::vector<inputs<float>> layers;
  std::vector<rollout_layer<float>> views;
  for (unsigned l = 0; l < 3; ++l) layers.push_back(random_inputs<float>(s, l + 1, 1.5));
  for (auto const& in : layers) views.push_back({in.query.view(), in.key.view()});
  auto units = filled<float, 3>({2, 23, 23}, 0), expected = filled<float, 3>({2, 23, 23}, 7);
  for (index_t b = 0; b < 2; ++b)
    for (index_t i = 0; i < 23; ++i) units.view()(b, i, i) = 1;
  attention_rollout(views, units.view(), expected.view(), causal{});
  auto maps = filled<float, 4>({3, 2, 23, 23}, 7);
  for (std::size_t l = 0; l < 3; ++l) {
    auto of_layer = tensor_view<float, 3>(&maps.view()(l, 0, 0, 0), {2, 23, 23});
    residual_map(layers[l].query.view(), layers[l].key.view(), of_layer, head_fusion::mean, causal{}, threads{2});
  }
  for (index_t b = 0; b < 2; ++b) {
    auto rolled = filled<float, 2>({23, 23}, 7);
    map_rollout(tensor_view<float const, 3>(&maps.view()(0, b, 0, 0), {3, 23, 23}, {2 * 23 * 23, 23, 1}),
                rolled.view());
    for (index_t i = 0; i < 23; ++i)
      for (index_t j = 0; j < 23; ++j)
        EXPECT_NEAR(rolled.view()(i, j), expected.view()(b, i, j), 3 * tolerance<float>(1)) << i << ' ' << j;
  }
}

TEST(AttentionFlow, HeadsAreFusedByTheirMaximum) {
  sizes const s{.query_heads = 3, .key_heads = 3, .queries = 9, .keys = 9};
  auto const in = random_inputs<double>(s, 4, 1.5);
  auto map = filled<double, 3>({1, 9, 9}, 7);
  residual_map(in.query.view(), in.key.view(), map.view(), head_fusion::maximum);
  auto const weights = reference::softmax_attention<double>(in.query.view(), in.key.view(), in.value.view()).weights;
  for (std::size_t i = 0; i < 9; ++i) {
    std::vector<double> row;
    for (std::size_t j = 0; j < 9; ++j)
      row.push_back(std::max({weights[i * 9 + j], weights[(9 + i) * 9 + j], weights[(18 + i) * 9 + j]}) + (i == j));
    double const total = std::accumulate(row.begin(), row.end(), 0.0);
    for (std::size_t j = 0; j < 9; ++j) EXPECT_NEAR(map.elements[i * 9 + j], row[j] / total, tolerance<double>(1));
  }
}

TEST(AttentionFlow, ArgumentsThatDoNotFitAreNamed) {
  auto const in = random_inputs<float>({.query_heads = 2, .queries = 5, .keys = 5}, 1);
  auto const longer = random_inputs<float>({.query_heads = 2, .queries = 5, .keys = 6}, 1);
  auto maps = filled<float, 3>({2, 5, 5}, 0.2f), map = filled<float, 3>({1, 5, 5}, 7),
       narrow = filled<float, 3>({1, 5, 4}, 7);
  auto flow = filled<float, 2>({1, 5}, 7), rolled = filled<float, 2>({5, 5}, 7);
  std::vector<std::int64_t> const first{0}, none{5}, two{0, 1};
  auto const expect = [&](std::string const& message, auto const& call) {
    expect_error(message, call);
    auto const untouched = [](auto const& t) {
      return std::all_of(t.elements.begin(), t.elements.end(), [](float x) { return x == 7; });
    };
    EXPECT_TRUE(untouched(map) && untouched(narrow) && untouched(flow) && untouched(rolled)) << message;
  };
  auto const q = in.query.view(), k = in.key.view();
  expect("key: expected tokens 5 (as query), got 6",
         [&] { residual_map(longer.query.view(), longer.key.view(), map.view(), head_fusion::mean); });
  expect("map: expected keys 5 (as query), got 4", [&] { residual_map(q, k, narrow.view(), head_fusion::mean); });
  expect("scale: expected a finite number, got inf",
         [&] { residual_map(q, k, map.view(), head_fusion::mean, scale{1e300}); });
  expect("maps: expected keys 5 (as its tokens), got 4", [&] { map_rollout(narrow.view(), rolled.view()); });
  expect("rollout: expected tokens 5 (as maps), got 1", [&] { map_rollout(maps.view(), flow.view()); });
  expect("flow: expected rows 2 (as outputs), got 1", [&] { attention_flow(maps.view(), two, flow.view()); });
  expect("outputs: expected tokens from 0 to 4, got 5 at 0", [&] { attention_flow(maps.view(), none, flow.view()); });
  expect("maps: expected at least 1 layer, got 0",
         [&] { attention_flow(tensor_view<float const, 3>(maps.elements.data(), {0, 5, 5}), first, flow.view()); });
  maps.elements[3] = -1;
  expect("maps: expected finite numbers of at least 0, got -1",
         [&] { attention_flow(maps.view(), first, flow.view()); });
}

}  // namespace
}  // namespace attend::test
