// SPDX-License-Identifier: BSD-3-Clause
// Gains of pairs: Luong's local attention, whose weights are a softmax over a window times a Gaussian.
#include <attend/policy/mask/centred_window.hpp>
#include <attend/policy/pair_gain.hpp>

#include "support/argument_errors.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

template <class T>
class LocalAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(LocalAttention, Elements);

TYPED_TEST(LocalAttention, IsASoftmaxOverAWindowTimesAGaussian) {
  using T = TypeParam;
  for (auto [queries, keys] : {std::pair<index_t, index_t>{1, 1}, {60, 60}, {35, 170}, {130, 40}})
    for (double reach : {3., 10., 60.}) {
      auto const in = test::random_inputs<T>({.batches = 2,
                                              .query_heads = 4,
                                              .key_heads = 2,
                                              .value_heads = 2,
                                              .queries = queries,
                                              .keys = keys,
                                              .key_dimension = 5,
                                              .value_dimension = 9},
                                             3);
      // Centres that a model predicted: anywhere between the first and the last key, and NaN for nothing.
      auto centres = test::normal<T, 3>({2, 1, queries}, 9);
      for (T& c : centres.elements) c = static_cast<T>(keys) / (1 + std::exp(-c));
      auto const centre = [&](index_t b, index_t i) { return static_cast<double>(centres.view()(b, 0, i)); };

      reference::options with;
      with.visible = [&](reference::place const& at) {
        return std::abs(static_cast<double>(at.key) - centre(at.batch, at.query)) <= reach;
      };
      auto const softmax = reference::softmax_attention<T>(in.query.view(), in.key.view(), in.value.view(), with);
      std::vector<double> expected;
      for (index_t b = 0; b < 2; ++b)
        for (index_t h = 0; h < 4; ++h)
          for (index_t i = 0; i < queries; ++i)
            for (index_t c = 0; c < 9; ++c) {
              double sum = 0;
              for (index_t j = 0; j < keys; ++j) {
                double const distance = static_cast<double>(j) - centre(b, i), sigma = reach / 2;
                sum += softmax.weights[static_cast<std::size_t>(((b * 4 + h) * queries + i) * keys + j)] *
                       std::exp(-distance * distance / (2 * sigma * sigma)) *
                       static_cast<double>(in.value.view()(b, h / 2, j, c));
              }
              expected.push_back(sum);
            }

      auto out = test::filled<T, 4>({2, 4, queries, 9}, T(7));
      softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(),
                        centred_window(centres.view(), reach), gaussian_gain(centres.view(), reach / 2));
      EXPECT_TRUE(test::near(out.elements, expected, test::tolerance<T>(test::largest_magnitude(in.value.elements))))
          << queries << " queries, " << keys << " keys, reach " << reach;
    }
}

TEST(GaussianGain, OfGreatDeviationChangesNothing) {
  auto const in = test::random_inputs<float>({.queries = 50, .keys = 70}, 2);
  std::vector<float> const centres(50, 30.f);
  auto out = test::filled<float, 4>({1, 1, 50, 8}, 7.f);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), gaussian_gain(centres, 1e30));
  EXPECT_TRUE(test::same_bits(out.elements, test::attend_to(in).output.elements));
}

TEST(GaussianGain, OfSmallDeviationLeavesTheCentre) {
  // The weight of one key of fifty, and nothing of the others.
  auto const in = test::random_inputs<float>({.queries = 3, .keys = 50}, 4);
  std::vector<float> const centres = {2.f, 30.5f, 49.f};
  auto const weights = test::attend_to(in).weights;
  for (double deviation : {1e-10, 1e-25, 1e-300}) {
    auto out = test::filled<float, 4>({1, 1, 3, 8}, 7.f);
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), gaussian_gain(centres, deviation));
    for (index_t c = 0; c < 8; ++c) {
      double const first = double(weights.view()(0, 0, 0, 2)) * in.value.view()(0, 0, 2, c);
      double const last = double(weights.view()(0, 0, 2, 49)) * in.value.view()(0, 0, 49, c);
      EXPECT_NEAR(out.view()(0, 0, 0, c), first, test::tolerance<float>(std::abs(first)));
      EXPECT_EQ(out.view()(0, 0, 1, c), 0);
      EXPECT_NEAR(out.view()(0, 0, 2, c), last, test::tolerance<float>(std::abs(last)));
    }
  }
}

class GaussianGainErrors : public test::argument_errors {};

TEST_F(GaussianGainErrors, NameTheGain) {
  std::vector<float> const centres(5, 1.f), six(6, 1.f);
  expect_option_error("gaussian_gain: expected a deviation above 0, got 0", gaussian_gain(centres, 0.));
  expect_option_error(
      "gaussian_gain: expected shape [2, 6, 5] (batch, query head, query) with 1 for an axis that is shared, got [1, "
      "1, 6]",
      gaussian_gain(six, 1.));
}

}  // namespace
}  // namespace attend
