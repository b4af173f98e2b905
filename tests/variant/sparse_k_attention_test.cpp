// SparseK: the operator against halving, and the attention with it; dense where all keys are chosen.
#include <attend/reference/sparse_k.hpp>
#include <attend/variant/sparse_k_attention.hpp>

#include "support/selected.hpp"

namespace attend {
namespace {

std::vector<double> weights_of(std::vector<double> const& scores, index_t k) {
  std::vector<double> weights(scores.size() + 1, 7);
  sparse_k(scores.data(), static_cast<index_t>(scores.size()), k, weights.data());
  EXPECT_EQ(weights.back(), 7);
  weights.pop_back();
  return weights;
}

TEST(SparseK, IsTheNearestPoint) {
  std::mt19937 engine(1);
  for (double deviation : {0.01, 0.3, 1.0, 10.0})
    for (std::size_t count : {2, 3, 17, 100}) {
      std::normal_distribution<double> distribution(0, deviation);
      std::vector<double> scores(count);
      for (double& u : scores) u = distribution(engine);
      for (index_t k = 1; k < static_cast<index_t>(count); k += 1 + k / 3) {
        auto const got = weights_of(scores, k);
        EXPECT_TRUE(test::near(got, reference::sparse_k(scores, k), 1e-12)) << deviation << ", " << count << ", " << k;
        EXPECT_NEAR(std::accumulate(got.begin(), got.end(), 0.0), static_cast<double>(k), 1e-12);
      }
    }
}

TEST(SparseK, HasExactOnesAndZeros) {
  EXPECT_EQ(weights_of({5, 1, -3}, 3), std::vector<double>({1, 1, 1}));
  EXPECT_EQ(weights_of({5, 1, -3}, 9), std::vector<double>({1, 1, 1}));
  EXPECT_EQ(weights_of({5, 1, -3}, 0), std::vector<double>({0, 0, 0}));
  EXPECT_EQ(weights_of({5, 1, -3}, 1), std::vector<double>({1, 0, 0}));
  EXPECT_EQ(weights_of({2, 2, 2, 2}, 1), std::vector<double>({0.25, 0.25, 0.25, 0.25}));
  EXPECT_EQ(weights_of({}, 2), std::vector<double>());
}

test::sizes const odd{.batches = 2,
                      .query_heads = 4,
                      .key_heads = 2,
                      .value_heads = 2,
                      .queries = 60,
                      .keys = 83,
                      .key_dimension = 20,
                      .value_dimension = 13};

template <class T>
testing::AssertionResult follows(index_t k, unsigned seed) {
  using A = accumulation_t<T>;
  auto const in = test::random_inputs<T>(odd, seed);
  auto const scores = test::normal<A, 3>({2, 2, 83}, seed + 7, 0.6);
  auto const got = test::attend_by(in, [&](auto q, auto key, auto v, auto o, auto const&... options) {
    sparse_k_attention(q, key, v, o, scores.view(), k, options...);
  });
  std::vector<std::vector<double>> gates;
  std::vector<double> least;  // the k-th largest score
  for (std::size_t row = 0; row < 4; ++row) {
    auto const first = scores.elements.begin() + static_cast<std::ptrdiff_t>(row * 83);
    std::vector<double> u(first, first + 83);
    gates.push_back(reference::sparse_k(u, k));
    std::sort(u.begin(), u.end(), std::greater<>());
    least.push_back(u[static_cast<std::size_t>(std::min<index_t>(k, 83) - 1)]);
  }
  reference::options with;
  with.visible = [&](reference::place const& at) {
    return static_cast<double>(scores.view()(at.batch, at.head / 2, at.key)) >=
           least[static_cast<std::size_t>(at.batch * 2 + at.head / 2)];
  };
  with.value_gain = [&](index_t b, index_t head, index_t j) {
    return gates[static_cast<std::size_t>(b * 2 + head)][static_cast<std::size_t>(j)];
  };
  // Values are rounded when they are multiplied.
  return test::agrees(in, got, with, 2);
}

TEST(SparseKAttention, FollowsItsDefinition) {
  EXPECT_TRUE(follows<float>(10, 1));
  EXPECT_TRUE(follows<float>(82, 2));
  EXPECT_TRUE(follows<float>(1, 3));
  EXPECT_TRUE(follows<bfloat16>(30, 4));
}

TEST(SparseKAttention, IsDenseWhereAllAreChosen) {
  auto const in = test::random_inputs<float>(odd, 5);
  auto const scores = test::normal<float, 3>({2, 2, 83}, 6);
  auto got = test::filled<float, 4>({2, 4, 60, 13}, 7), dense = got;
  sparse_k_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), scores.view(), 83);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view());
  EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(5)));
}

TEST(SparseKAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 5, .keys = 9}, 7);
  auto const scores = test::normal<float, 3>({1, 1, 9}, 8), few = test::normal<float, 3>({1, 1, 8}, 8);
  auto output = test::filled<float, 4>({1, 1, 5, 8}, 7);
  auto const call = [&](auto const& u, index_t k) {
    sparse_k_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), u.view(), k);
  };
  test::expect_error("scores: expected tokens 9 (as key), got 8", [&] { call(few, 2); });
  test::expect_error("k: expected at least 0, got -1", [&] { call(scores, -1); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
