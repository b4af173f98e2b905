// SPDX-License-Identifier: BSD-3-Clause
// Attention to the own block and to the means of all blocks, against its formula.
#include <attend/attention/image/multi_grained_attention.hpp>

#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace systems;

namespace {

template <class T>
void expect_formula(index_t height, index_t width, index_t block) {
  auto const in = test::random_inputs<T>({.batches = 2,
                                          .query_heads = 4,
                                          .key_heads = 2,
                                          .value_heads = 1,
                                          .queries = height * width,
                                          .keys = height * width,
                                          .value_dimension = 5},
                                         3);
  index_t const across = (width + block - 1) / block, blocks = (height + block - 1) / block * across;
  auto const block_of = [=](index_t token) { return token / width / block * across + token % width / block; };
  // Rows of keys or values as a query sees them: the tokens, and behind them the means.
  auto const rows_of = [&](tensor_view<T const, 4> x, index_t b, index_t h) {
    index_t const dimension = x.extent(3);
    std::vector<std::vector<double>> rows;
    std::vector<std::vector<double>> means(static_cast<std::size_t>(blocks),
                                           std::vector<double>(static_cast<std::size_t>(dimension)));
    std::vector<double> sizes(static_cast<std::size_t>(blocks));
    for (index_t j = 0; j < height * width; ++j) {
      auto const of = static_cast<std::size_t>(block_of(j));
      ++sizes[of];
      rows.emplace_back();
      for (index_t c = 0; c < dimension; ++c) {
        rows.back().push_back(double(x(b, h, j, c)));
        means[of][static_cast<std::size_t>(c)] += double(x(b, h, j, c));
      }
    }
    for (std::size_t n = 0; n < means.size(); ++n) {
      for (double& mean : means[n]) mean = double(static_cast<T>(mean / sizes[n]));
      rows.push_back(means[n]);
    }
    return rows;
  };
  std::vector<double> expected;
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 4; ++h) {
      auto const key = rows_of(in.key.view(), b, h / 2), value = rows_of(in.value.view(), b, 0);
      for (index_t i = 0; i < height * width; ++i) {
        std::vector<double> sum(5);
        double weight_sum = 0;
        for (std::size_t j = 0; j < key.size(); ++j) {
          if (j < static_cast<std::size_t>(height * width) && block_of(static_cast<index_t>(j)) != block_of(i))
            continue;
          double s = 0;
          for (index_t c = 0; c < 8; ++c)
            s += double(in.query.view()(b, h, i, c)) * key[j][static_cast<std::size_t>(c)];
          double const weight = std::exp(s / std::sqrt(8.));
          weight_sum += weight;
          for (std::size_t c = 0; c < 5; ++c) sum[c] += weight * value[j][c];
        }
        for (double x : sum) expected.push_back(x / weight_sum);
      }
    }
  auto out = test::filled<T, 4>({2, 4, height * width, 5}, T(7));
  multi_grained_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), {height, width}, block);
  EXPECT_TRUE(test::near(out.elements, expected, test::tolerance<T>(test::largest_magnitude(in.value.elements))))
      << height << " x " << width << ", blocks of " << block;
}

TEST(MultiGrainedAttention, SeesItsBlockAndTheMeansOfAll) {
  for (auto const& [height, width, block] :
       {std::array<index_t, 3>{16, 16, 8}, {12, 20, 4}, {9, 14, 5}, {3, 4, 1}, {5, 7, 20}, {1, 1, 1}})
    expect_formula<float>(height, width, block);
  expect_formula<bfloat16>(12, 8, 4);
}

TEST(MultiGrainedAttention, OfOneBlockCountsTheMeanOnce) {
  // In a block of one token the token is its own mean; two equal keys are as good as one.
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 1, .keys = 1}, 4);
  auto out = test::filled<float, 4>({1, 2, 1, 8}, 7.f);
  multi_grained_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), {1, 1}, 4);
  for (index_t h = 0; h < 2; ++h)
    for (index_t c = 0; c < 8; ++c)
      EXPECT_NEAR(out.view()(0, h, 0, c), in.value.view()(0, 0, 0, c), test::tolerance<float>(4));
}

TEST(MultiGrainedAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 20, .keys = 20}, 3);
  auto out = test::filled<float, 4>({1, 1, 20, 8}, 7.f);
  auto const expect = [&](std::string const& message, std::array<index_t, 2> extents, index_t block) {
    test::expect_error(message, [&] {
      multi_grained_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), extents, block);
    });
    for (float x : out.elements) EXPECT_EQ(x, 7);
  };
  expect("key: expected tokens 24 (as extents), got 20", {4, 6}, 2);
  expect("block: expected 1 to 536870911, got 0", {4, 5}, 0);
  expect("extents: expected 0 to 536870911, got -4", {-4, -5}, 1);
}

}  // namespace
}  // namespace attend
