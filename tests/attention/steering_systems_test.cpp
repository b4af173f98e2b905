// SPDX-License-Identifier: BSD-3-Clause
// Systems that choose heads and tokens from what attention gives, against their formulas in double.
#include <attend/attention/softmax/token_emphasis.hpp>
#include <attend/attention/softmax/vision_aware_heads.hpp>
#include <attend/policy/gain.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/parts.hpp>
#include <attend/policy/score/bias.hpp>

#include "support/argument_errors.hpp"

namespace attend::test {
namespace {

using namespace systems;

constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();

TEST(VisionAwareHeads, DivergenceIsTheDistanceOfTheLastOutputs) {
  sizes const s{.batches = 2, .query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 6, .keys = 20};
  auto const in = random_inputs<float>(s, 1);
  auto with = filled<float, 4>({2, 4, 6, 8}, 7), without = with;
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), with.view(), causal{});
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), without.view(), causal{} & !keys_in(3, 11));
  auto got = filled<double, 2>({2, 4}, 7);
  head_divergence(with.view(), without.view(), got.view());
  reference::options seen, blind;
  seen.visible = reference::causal_bottom_right();
  blind.visible = [&](reference::place const& at) { return seen.visible(at) && (at.key < 3 || at.key >= 11); };
  auto a = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), seen);
  auto b = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), blind);
  for (index_t batch = 0; batch < 2; ++batch)
    for (index_t h = 0; h < 4; ++h) {
      double sum = 0;
      for (index_t c = 0; c < 8; ++c) sum += std::pow(a.at(batch, h, 5, c) - b.at(batch, h, 5, c), 2);
      EXPECT_NEAR(got.view()(batch, h), std::sqrt(sum), 10 * tolerance<float>(1));
    }
}

TEST(VisionAwareHeads, HeadsAboveTheMedianAreReinforced) {
  // An outlier counts as 0, and so does what is no number: 0.3 is the median of the second layer, 0.05 of the third,
  // where 0.3 is more than a deviation above the mean.
  tensor<double, 2> const divergences{{3, 5},
                                      {0.1, 0.2, 0.3, 0.4, 0.5,  //
                                       0.3, 0.2, 90, 0.4, 0.5,   //
                                       0.1, std::nan(""), 0.2, 0.3, 0.05}};
  auto gates = filled<float, 2>({3, 5}, 7);
  reinforced_heads(std::as_const(divergences).view(), {.factor = 1.5, .first_layer = 1, .outlier = 1}, gates.view());
  std::vector<float> const expected{1, 1, 1, 1, 1, 1, 1, 1, 1.5f, 1.5f, 1.5f, 1, 1.5f, 1, 1};
  EXPECT_EQ(gates.elements, expected);
  // The median of an even number is the mean of two.
  tensor<double, 2> const even{{1, 4}, {1, 2, 3, 4}};
  auto four = filled<float, 2>({1, 4}, 7);
  reinforced_heads(std::as_const(even).view(), {}, four.view());
  EXPECT_EQ(four.elements, (std::vector<float>{1, 1, 2, 2}));
}

TEST(VisionAwareHeads, ArgumentsThatDoNotFitAreNamed) {
  auto const outputs = filled<float, 4>({1, 2, 3, 4}, 1), none = filled<float, 4>({1, 2, 0, 4}, 1),
             wide = filled<float, 4>({1, 2, 3, 5}, 1);
  auto divergence = filled<double, 2>({1, 2}, 7), three = filled<double, 2>({1, 3}, 7);
  auto gates = filled<float, 2>({1, 2}, 7);
  auto const expect = [&](std::string const& message, auto const& call) {
    expect_error(message, call);
    EXPECT_EQ(divergence.elements, std::vector<double>(2, 7));
    EXPECT_EQ(gates.elements, std::vector<float>(2, 7));
  };
  expect("without_image: expected head dimension 4 (as with_image), got 5",
         [&] { head_divergence(outputs.view(), wide.view(), divergence.view()); });
  expect("without_image: expected at least 1 query, got 0",
         [&] { head_divergence(outputs.view(), none.view(), divergence.view()); });
  expect("divergence: expected heads 2 (as with_image), got 3",
         [&] { head_divergence(outputs.view(), outputs.view(), three.view()); });
  tensor_view<double const, 2> const d = divergence.view();
  expect("gates: expected heads 3 (as divergence), got 2",
         [&] { reinforced_heads(tensor_view<double const, 2>(three.view()), {}, gates.view()); });
  expect("factor: expected a finite number, got inf",
         [&] { reinforced_heads(d, {.factor = extend::infinity<double>}, gates.view()); });
  expect("outlier: expected at least 0 deviations, got -1",
         [&] { reinforced_heads(d, {.outlier = -1}, gates.view()); });
}

TEST(TokenEmphasis, TakesSalientTokensAndOneOfEachCell) {
  // Rows of 6. Token 8 stands out most, then 29; NaN never does.
  std::vector<float> saliency(36, 1);
  saliency[8] = 5, saliency[29] = 4, saliency[0] = nan_value, saliency[33] = 1.5f;
  EXPECT_EQ(emphasized_tokens(saliency, {.rows = 6, .columns = 6, .local = 2, .cells = 0}),
            (std::vector<std::int64_t>{8, 29}));
  // Cells of 3 x 3: 8 is in the first, 33 and 29 in the last two, and of equal tokens the first counts.
  EXPECT_EQ(emphasized_tokens(saliency, {.rows = 6, .columns = 6, .local = 1, .cells = 2}),
            (std::vector<std::int64_t>{3, 8, 18, 29}));
  EXPECT_EQ(emphasized_tokens(saliency, {.rows = 6, .columns = 6, .local = 99, .cells = 1}).size(), 36u);
  EXPECT_TRUE(emphasized_tokens(std::vector<float>(), {.rows = 0, .columns = 3}).empty());
  // More cells than tokens: those without a token have none.
  EXPECT_EQ(emphasized_tokens(std::vector<float>{1, 2}, {.rows = 1, .columns = 2, .local = 0, .cells = 4}).size(), 2u);
}

TEST(TokenEmphasis, MultipliesWeightsAndDividesRows) {
  sizes const s{.query_heads = 3, .key_heads = 3, .value_heads = 3, .queries = 7, .keys = 15};
  auto const in = random_inputs<float>(s, 5);
  std::vector<float> const masses{0.5f, 0.f, 0.25f};
  std::vector<std::int64_t> const keys{2, 3, 9};
  auto added = filled<float, 4>({1, 3, 1, 15}, 7);
  emphasis_bias(masses, keys, 0.8, added.view());
  reference::options with;
  with.visible = reference::causal_bottom_right();
  auto plain = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  std::vector<double> expected;
  for (index_t h = 0; h < 3; ++h)
    for (index_t i = 0; i < 7; ++i) {
      std::vector<double> row, output(8, 0);
      for (index_t j = 0; j < 15; ++j) {
        bool const is_emphasized = j == 2 || j == 3 || j == 9;
        double const gamma = 1 + 0.8 * static_cast<double>(masses[static_cast<std::size_t>(h)]) / 0.5;
        row.push_back(plain.weight(0, h, i, j) * (is_emphasized ? gamma : 1));
      }
      double const total = std::accumulate(row.begin(), row.end(), 0.0);
      for (index_t j = 0; j < 15; ++j)
        for (index_t c = 0; c < 8; ++c)
          output[static_cast<std::size_t>(c)] +=
              row[static_cast<std::size_t>(j)] / total * static_cast<double>(in.value.view()(0, h, j, c));
      expected.insert(expected.end(), output.begin(), output.end());
    }
  auto output = filled<float, 4>({1, 3, 7, 8}, 7);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), causal{}, bias(added.view()));
  EXPECT_TRUE(near(output.elements, expected, tolerance<float>(largest_magnitude(in.value.elements))));
}

TEST(TokenEmphasis, ArgumentsThatDoNotFitAreNamed) {
  std::vector<float> const saliency(12), masses{1, 2}, negative{1, -2};
  std::vector<std::int64_t> const keys{0, 4}, beyond{5};
  auto added = filled<float, 4>({1, 2, 1, 5}, 7);
  auto const expect = [&](std::string const& message, auto const& call) {
    expect_error(message, call);
    EXPECT_EQ(added.elements, std::vector<float>(10, 7));
  };
  expect("saliency: expected tokens 10 (as rows * columns), got 12",
         [&] { emphasized_tokens(saliency, {.rows = 5, .columns = 2}); });
  expect("image: expected numbers of at least 0, got [3, 4, -1, 4]",
         [&] { emphasized_tokens(saliency, {.rows = 3, .columns = 4, .local = -1}); });
  expect("bias: expected heads 3 (as masses), got 2",
         [&] { emphasis_bias(std::vector<float>(3), keys, 1, added.view()); });
  expect("keys: expected keys from 0 to 4, got 5", [&] { emphasis_bias(masses, beyond, 1, added.view()); });
  expect("masses: expected finite numbers of at least 0, got -2",
         [&] { emphasis_bias(negative, keys, 1, added.view()); });
  expect("strength: expected at least 0, got -1", [&] { emphasis_bias(masses, keys, -1, added.view()); });
}

}  // namespace
}  // namespace attend::test
