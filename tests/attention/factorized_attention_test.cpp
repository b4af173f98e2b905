// SPDX-License-Identifier: BSD-3-Clause
// Factorized attention: to the means over all windows of an image, against its formula.
#include <attend/attention/image/factorized_attention.hpp>

#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace systems;

namespace {

TEST(FactorizedAttention, SeesTheMeansOfAllWindows) {
  for (std::array<index_t, 4> const& sizes :
       {std::array<index_t, 4>{14, 21, 7, 1}, {14, 14, 3, 2}, {10, 13, 4, 1}, {9, 11, 3, 3}, {5, 5, 1, 1}}) {
    index_t const height = sizes[0], width = sizes[1], window = sizes[2], dilation = sizes[3];
    auto const in = test::random_inputs<float>({.batches = 2,
                                                .query_heads = 4,
                                                .key_heads = 2,
                                                .value_heads = 2,
                                                .queries = height * width,
                                                .keys = height * width},
                                               3);
    // The windows that begin inside of the image, and the image mirrored at its last row and column.
    index_t const side = dilation * (window - 1) + 1;
    auto const mean = [&](tensor_view<float const, 4> x) {
      auto means = test::filled<double, 4>({2, 2, window * window, 8}, 0.);
      for (index_t b = 0; b < 2; ++b)
        for (index_t h = 0; h < 2; ++h)
          for (index_t place = 0; place < window * window; ++place)
            for (index_t c = 0; c < 8; ++c) {
              double sum = 0;
              int count = 0;
              for (index_t top = 0; top < height; top += side)
                for (index_t left = 0; left < width; left += side, ++count) {
                  index_t y = top + place / window * dilation, z = left + place % window * dilation;
                  if (y >= height) y = height - 1 - (y - (height - 1));
                  if (z >= width) z = width - 1 - (z - (width - 1));
                  sum += x(b, h, y * width + z, c);
                }
              means.view()(b, h, place, c) = sum / count;
            }
      return means;
    };
    auto const keys = mean(in.key.view()), values = mean(in.value.view());
    std::vector<double> expected;
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 4; ++h)
        for (index_t i = 0; i < height * width; ++i) {
          std::vector<double> weight;
          double weight_sum = 0;
          for (index_t j = 0; j < window * window; ++j) {
            double s = 0;
            for (index_t c = 0; c < 8; ++c) s += in.query.view()(b, h, i, c) * keys.view()(b, h / 2, j, c);
            weight.push_back(std::exp(s / std::sqrt(8.)));
            weight_sum += weight.back();
          }
          for (index_t c = 0; c < 8; ++c) {
            double sum = 0;
            for (index_t j = 0; j < window * window; ++j)
              sum += weight[static_cast<std::size_t>(j)] / weight_sum * values.view()(b, h / 2, j, c);
            expected.push_back(sum);
          }
        }
    auto out = test::filled<float, 4>({2, 4, height * width, 8}, 7.f);
    factorized_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), {height, width}, window,
                         dilation);
    EXPECT_TRUE(test::near(out.elements, expected, test::tolerance<float>(test::largest_magnitude(in.value.elements))))
        << height << " x " << width << ", windows of " << window << ", dilation " << dilation;
  }
}

TEST(FactorizedAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 20, .keys = 20}, 3);
  auto out = test::filled<float, 4>({1, 1, 20, 8}, 7.f);
  auto const expect = [&](std::string const& message, std::array<index_t, 2> extents, index_t window,
                          index_t dilation) {
    test::expect_error(message, [&] {
      factorized_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), extents, window, dilation);
    });
    for (float x : out.elements) EXPECT_EQ(x, 7);
  };
  expect("key: expected tokens 24 (as extents), got 20", {4, 6}, 2, 1);
  expect("window: expected at least 1, got 0", {4, 5}, 0, 1);
  expect("dilation: expected at least 1, got 0", {4, 5}, 2, 0);
  expect("window: expected a reach below 4 (the least extent), got 5 with dilation 1", {4, 5}, 5, 1);
  expect("extents: expected 0 to 536870911, got -4", {-4, -5}, 1, 1);
  expect("window: expected a reach below 4 (the least extent), got 3 with dilation 4611686018427387904", {4, 5}, 3,
         index_t{1} << 62);
  auto tokens = test::filled<float, 4>({1, 1, 20, 8}, 7.f);
  test::expect_error("output: expected memory of its own, got memory that overlaps key", [&] {
    factorized_attention(in.query.view(), tokens.view(), in.value.view(), tokens.view(), {4, 5}, 2, 1);
  });
  test::expect_error("output: expected memory of its own, got memory that overlaps value", [&] {
    factorized_attention(in.query.view(), in.key.view(), tokens.view(), tokens.view(), {4, 5}, 2, 1);
  });
  for (float x : tokens.elements) EXPECT_EQ(x, 7);
}

TEST(FactorizedAttention, TensorsWithoutElementsNeedNoMemory) {
  auto const in = test::random_inputs<float>({.queries = 20, .keys = 20}, 3);
  tensor_view<float, 4> const no_columns(nullptr, {1, 1, 20, 0});
  EXPECT_NO_THROW(factorized_attention(in.query.view(), in.key.view(), no_columns, no_columns, {4, 5}, 2, 1));
  float beside = 7;
  tensor_view<float, 4> const output(&beside, {1, 1, 20, 0});
  factorized_attention(in.query.view(), in.key.view(), no_columns, output, {4, 5}, 2, 1);
  EXPECT_EQ(beside, 7);
}

}  // namespace
}  // namespace attend
