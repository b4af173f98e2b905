// SPDX-License-Identifier: BSD-3-Clause
// Which layers reuse lists: what a profile measures, and that no other policy harms less.
#include <attend/select/layer_reuse.hpp>

#include <bit>
#include <random>

#include "support/expect_error.hpp"

namespace attend {
using namespace extend;
using namespace selection;

namespace {

using test::expect_error;

token_lists lists_of(std::vector<index_t> const& rows) {
  token_lists lists(1, 1, 64);
  for (index_t const row : rows) lists.add(0, 0, row, row + 1);
  return lists;
}

TEST(LayerProfile, MeasuresListsAndOutputs) {
  layer_profile profile(3);
  EXPECT_EQ(profile.similarity(0, 1), 0);
  EXPECT_EQ(profile.sensitivity(2), 0);
  token_lists const a = lists_of({1, 3, 5, 9}), b = lists_of({3, 4, 9}), c = lists_of({0, 2}), none(1, 1, 4);
  profile.add_lists({&a, &b, &c});
  profile.add_lists({&a, &none, &c});  // is left out
  EXPECT_DOUBLE_EQ(profile.similarity(0, 1), 2.0 / 3);
  EXPECT_EQ(profile.similarity(0, 2), 0);
  profile.add_lists({&a, &a, &a});
  EXPECT_DOUBLE_EQ(profile.similarity(0, 1), (2.0 / 3 + 1) / 2);
  std::vector<float> const all{3, 4, 0, 0}, some{3, 4, 3, 4}, zeros(4, 0);
  auto const view = [](std::vector<float> const& of) { return tensor_view<float const, 4>(of.data(), {1, 1, 2, 2}); };
  profile.add_outputs(1, view(all), view(some));
  profile.add_outputs(1, view(zeros), view(some));  // is left out
  profile.add_outputs(1, view(all), view(all));
  EXPECT_DOUBLE_EQ(profile.sensitivity(1), 0.5);
}

TEST(LayerProfile, SaysWhatIsWrong) {
  expect_error("layers: expected at least 1, got 0", [&] { layer_profile profile(0); });
  layer_profile profile(2);
  token_lists const one(1, 1, 4), heads(1, 2, 4), sequences(2, 1, 4);
  expect_error("of_layer: expected layers 2 (as the profile), got 1", [&] { profile.add_lists({&one}); });
  expect_error("of_layer: expected the lists of each layer, got null", [&] { profile.add_lists({&one, nullptr}); });
  expect_error("of_layer: expected heads 1 (as the first layer), got 2", [&] { profile.add_lists({&one, &heads}); });
  expect_error("of_layer: expected sequences 1 (as the first layer), got 2",
               [&] { profile.add_lists({&one, &sequences}); });
  std::vector<float> numbers(8);
  tensor_view<float, 4> const large(numbers.data(), {1, 1, 2, 4}), small(numbers.data(), {1, 1, 2, 3});
  expect_error("layer: expected from 0 to 1, got 2", [&] { profile.add_outputs(2, large, large); });
  expect_error("of_list: expected shape [1, 1, 2, 4] (as of_all), got [1, 1, 2, 3]",
               [&] { profile.add_outputs(0, large, small); });
  expect_error("a: expected a layer before layer 1, got 1", [&] { (void)profile.similarity(1, 1); });
  expect_error("layer: expected from 0 to 1, got -1", [&] { (void)profile.sensitivity(-1); });
}

/// Lists and outputs of as many layers, at random.
layer_profile random_profile(index_t layers, unsigned seed) {
  std::mt19937 engine(seed);
  layer_profile profile(layers);
  std::vector<token_lists> lists;
  std::vector<token_lists const*> pointers;
  for (index_t layer = 0; layer < layers; ++layer) {
    std::vector<index_t> rows;
    for (index_t row = 0; row < 40; ++row)
      if (engine() % 3 == 0) rows.push_back(row);
    rows.push_back(40);
    lists.push_back(lists_of(rows));
  }
  for (token_lists const& one : lists) pointers.push_back(&one);
  profile.add_lists(pointers);
  std::vector<float> all(6, 1), some(6);
  for (index_t layer = 0; layer < layers; ++layer) {
    for (float& x : some) x = 1 + static_cast<float>(engine() % 100) / 100;
    profile.add_outputs(layer, tensor_view<float, 4>(all.data(), {1, 1, 1, 6}),
                        tensor_view<float, 4>(some.data(), {1, 1, 1, 6}));
  }
  return profile;
}

/// The harm of a policy, of which bit l says that layer l is full; infinite where an option forbids it.
double harm_of(layer_profile const& profile, unsigned policy, layer_reuse_options const& options) {
  double sum = 0;
  index_t last = 0;
  for (index_t layer = 0; layer < profile.layers(); ++layer) {
    if (policy >> layer & 1) {
      last = layer;
      continue;
    }
    double const sensitivity = profile.sensitivity(layer), similarity = profile.similarity(last, layer);
    if (sensitivity > options.max_sensitivity || similarity < options.min_similarity) return infinity<double>;
    sum += sensitivity * (1 - similarity);
  }
  return sum;
}

void expect_best(index_t layers, layer_reuse_options const& options, unsigned seed) {
  layer_profile const profile = random_profile(layers, seed);
  double least = infinity<double>;
  int fewest = options.full_layers > 0 ? static_cast<int>(options.full_layers) : 100;
  for (unsigned policy = 1; policy < 1u << layers; policy += 2) {
    double const harm = harm_of(profile, policy, options);
    int const count = std::popcount(policy);
    if (harm == infinity<double> || count > fewest || (options.full_layers > 0 && count < fewest)) continue;
    if (count < fewest || harm < least) least = harm;
    fewest = count;
  }
  if (least == infinity<double>) {
    EXPECT_THROW((void)choose_full_layers(profile, options), argument_error);
    return;
  }
  auto const chosen = choose_full_layers(profile, options);
  unsigned policy = 0;
  for (index_t layer = 0; layer < layers; ++layer)
    policy |= static_cast<unsigned>(chosen[static_cast<std::size_t>(layer)]) << layer;
  EXPECT_EQ(policy & 1, 1u);
  EXPECT_EQ(std::popcount(policy), fewest) << seed;
  EXPECT_NEAR(harm_of(profile, policy, options), least, 1e-12) << seed;
}

TEST(ChooseFullLayers, HarmsLeastOfAllPolicies) {
  for (unsigned seed = 0; seed < 20; ++seed)
    for (index_t layers : {1, 2, 5, 9}) {
      expect_best(layers, {}, seed);
      expect_best(layers, {.max_sensitivity = 0.6}, seed);
      expect_best(layers, {.min_similarity = 0.35}, seed);
      expect_best(layers, {.max_sensitivity = 0.65, .min_similarity = 0.3}, seed);
      expect_best(layers, {.full_layers = std::min<index_t>(3, layers)}, seed);
      expect_best(layers, {.max_sensitivity = 0.6, .full_layers = 1}, seed);
    }
}

TEST(ChooseFullLayers, SaysWhatIsWrong) {
  layer_profile const profile = random_profile(4, 1);
  expect_error("layer_reuse_options: expected a sensitivity of at least 0, got -1",
               [&] { (void)choose_full_layers(profile, {.max_sensitivity = -1}); });
  expect_error("layer_reuse_options: expected a similarity from 0 to 1, got nan",
               [&] { (void)choose_full_layers(profile, {.min_similarity = std::nan("")}); });
  expect_error("layer_reuse_options: expected 0 to 4 full layers, got 5",
               [&] { (void)choose_full_layers(profile, {.full_layers = 5}); });
  expect_error(
      "layer_reuse_options: expected another number of full layers (what is asked of the others forbids it), got 1",
      [&] { (void)choose_full_layers(profile, {.max_sensitivity = 0, .full_layers = 1}); });
}

}  // namespace
}  // namespace attend
