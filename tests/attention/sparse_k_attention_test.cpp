// SPDX-License-Identifier: BSD-3-Clause
// SparseK: the operator against halving, and the attention with it; dense where all keys are chosen.
#include <attend/attention/sparse_prefill/sparse_k_causal_attention.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/reference/sparse_k.hpp>

#include "support/chosen_inputs.hpp"
#include "support/selected.hpp"

namespace attend {
using namespace options;
using namespace selection;
using namespace extend;
using namespace systems;

namespace {

std::vector<double> weights_of(std::vector<double> const& scores, index_t k) {
  std::vector<double> weights(scores.size() + 1, 7);
  sparse_k(scores.data(), static_cast<index_t>(scores.size()), k, weights.data());
  EXPECT_EQ(weights.back(), 7);
  weights.pop_back();
  return weights;
}

/// Of a weight: a score less the threshold, which is a mean of scores less a number from 0 to 1.
double allowed(std::vector<double> const& scores) {
  return test::tolerance<double>(1 + test::largest_magnitude(scores));
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
        EXPECT_TRUE(test::near(got, reference::sparse_k(scores, k), allowed(scores)))
            << deviation << ", " << count << ", " << k;
        // What is summed up are the weights of 1, and of each other one its score and the threshold.
        double magnitude = static_cast<double>(k);
        for (std::size_t i = 0; i < count; ++i)
          if (got[i] > 0 && got[i] < 1) magnitude += 2 * std::abs(scores[i]);
        EXPECT_NEAR(std::accumulate(got.begin(), got.end(), 0.0), static_cast<double>(k),
                    test::tolerance<double>(magnitude));
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

TEST(SparseK, TakesScoresThatAreFarApart) {
  EXPECT_EQ(weights_of({1e20, 1000.5, 1000}, 2), (std::vector<double>{1, 0.75, 0.25}));
  EXPECT_EQ(weights_of({0.25, 1e20, 0.5, -3}, 2), (std::vector<double>{0.375, 1, 0.625, 0}));
  EXPECT_EQ(weights_of({0.25, -1e30, -1e30, 0.5}, 3), (std::vector<double>{1, 0, 0, 1}));
  EXPECT_EQ(weights_of({0.25, -1e30, -1e30, 0.5}, 1), (std::vector<double>{0.375, 0, 0, 0.625}));
}

TEST(SparseK, LeavesOutWhatIsNoScore) {
  double const none = -infinity<double>, nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(weights_of({0.25, none, 0.5, none}, 1), (std::vector<double>{0.375, 0, 0.625, 0}));
  EXPECT_EQ(weights_of({0.25, nan, 0.5, none}, 3), (std::vector<double>{1, 0, 1, 0}));
  EXPECT_EQ(weights_of({nan, nan, nan}, 2), (std::vector<double>{0, 0, 0}));
  EXPECT_EQ(weights_of({0.25, infinity<double>, 0.5}, 2), (std::vector<double>{0.375, 1, 0.625}));
  scratch memory;
  running_sparse_k<double> running(memory, 9, 1);
  EXPECT_EQ(running.add(0, nan).gone, 0);
  EXPECT_EQ(running.add(1, none).gone, 1);
  EXPECT_EQ(running.add(2, 0.25).gone, -1);
  EXPECT_EQ(running.add(3, nan).gone, 3);
  EXPECT_EQ(running.add(4, 0.5).gone, 2);
  EXPECT_DOUBLE_EQ(running.tau(), -0.125);
  for (index_t token : {5, 6, 7}) running.add(token, infinity<double>);
  EXPECT_TRUE(std::isfinite(running.tau()));
}

// Each prefix's weights are those of the operator on it, and its k largest are those that did not go.
TEST(SparseK, RunsOverPrefixes) {
  std::mt19937 engine(2);
  for (double deviation : {0.1, 0.7, 5.0})
    for (index_t k : {0, 1, 3, 20}) {
      std::normal_distribution<double> distribution(0, deviation);
      scratch memory;
      running_sparse_k<double> running(memory, 100, k);
      std::vector<double> scores;
      std::vector<bool> kept;
      for (index_t token = 0; token < 99; ++token) {
        scores.push_back(token % 7 == 6 ? scores.back() : distribution(engine));
        kept.push_back(true);
        if (index_t const gone = running.add(token, scores.back()).gone; gone >= 0)
          kept[static_cast<std::size_t>(gone)] = false;
        EXPECT_EQ(std::count(kept.begin(), kept.end(), true), std::min<index_t>(k, token + 1));
        for (std::size_t j = 0; j < kept.size(); ++j)
          for (std::size_t i = 0; i < kept.size() && kept[j]; ++i)
            EXPECT_TRUE(kept[i] || scores[i] < scores[j] || (scores[i] == scores[j] && i > j));
        if (k == 0) continue;
        std::vector<double> weights;
        for (double u : scores) weights.push_back(std::clamp(u - running.tau(), 0.0, 1.0));
        EXPECT_TRUE(test::near(weights, reference::sparse_k(scores, k), allowed(scores))) << deviation << ", " << k;
      }
    }
}

// Scores as a mask has them: beside them a count of tokens is lost, and a list would grow beyond its memory.
TEST(SparseK, RunsOverScoresOfAMask) {
  std::mt19937 engine(3);
  std::normal_distribution<double> distribution;
  for (double low : {-1e16, -1e30, std::numeric_limits<double>::lowest()})
    for (index_t k : {1, 3}) {
      scratch memory;
      running_sparse_k<double> running(memory, 40, k);
      for (index_t token = 0; token < 5; ++token) running.add(token, low);
      std::vector<double> scores, weights;
      for (index_t token = 5; token < 35; ++token) {
        scores.push_back(distribution(engine));
        running.add(token, scores.back());
        weights.clear();
        for (double u : scores) weights.push_back(std::clamp(u - running.tau(), 0.0, 1.0));
        EXPECT_TRUE(test::near(weights, reference::sparse_k(scores, k), allowed(scores))) << low << ", " << k;
      }
    }
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
testing::AssertionResult follows(test::inputs<T> const& in, test::tensor<accumulation_t<T>, 3> const& scores,
                                 index_t k) {
  auto const got = test::attend_by(in, [&](auto q, auto key, auto v, auto o, auto const&... options) {
    sparse_k_attention(q, key, v, o, scores.view(), k, options...);
  });
  std::vector<std::vector<double>> gates;
  std::vector<std::vector<bool>> chosen;
  for (std::size_t row = 0; row < 4; ++row) {
    auto const first = scores.elements.begin() + static_cast<std::ptrdiff_t>(row * 83);
    std::vector<double> u(first, first + 83);
    gates.push_back(reference::sparse_k(u, k));
    std::vector<std::size_t> order(83);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](auto x, auto y) { return u[x] > u[y]; });
    order.resize(static_cast<std::size_t>(std::min<index_t>(k, 83)));
    chosen.emplace_back(83, false);
    for (std::size_t j : order) chosen.back()[j] = true;
  }
  reference::options with;
  with.visible = [&](reference::place const& at) {
    return chosen[static_cast<std::size_t>(at.batch * 2 + at.head / 2)][static_cast<std::size_t>(at.key)];
  };
  with.value_gain = [&](index_t b, index_t head, index_t j) {
    return gates[static_cast<std::size_t>(b * 2 + head)][static_cast<std::size_t>(j)];
  };
  // Values are rounded when they are multiplied.
  return test::agrees(in, got, with, 2);
}
template <class T>
testing::AssertionResult follows(index_t k, unsigned seed) {
  return follows(test::random_inputs<T>(odd, seed), test::normal<accumulation_t<T>, 3>({2, 2, 83}, seed + 7, 0.6), k);
}

TEST(SparseKAttention, FollowsItsDefinition) {
  EXPECT_TRUE(follows<float>(10, 1));
  EXPECT_TRUE(follows<float>(82, 2));
  EXPECT_TRUE(follows<float>(1, 3));
  EXPECT_TRUE(follows<bfloat16>(30, 4));
}

template <class T>
testing::AssertionResult follows_causally(test::inputs<T> const& in, test::tensor<accumulation_t<T>, 3> const& scores,
                                          index_t k, index_t window) {
  using A = accumulation_t<T>;
  auto const got = test::attend_by(in, [&](auto q, auto key, auto v, auto o, auto const&... options) {
    sparse_k_causal_attention(q, key, v, o, scores.view(), k, window, options...);
  });
  auto const expected = reference::sparse_k_causal_attention<T, A>(in.query.view(), in.key.view(), in.value.view(),
                                                                   scores.view(), k, window);
  return test::near(got.output.elements, expected, test::tolerance<T>(test::largest_magnitude(in.value.elements)));
}
template <class T>
testing::AssertionResult follows_causally(test::sizes const& s, index_t k, index_t window, unsigned seed) {
  return follows_causally(test::random_inputs<T>(s, seed),
                          test::normal<accumulation_t<T>, 3>({s.batches, s.key_heads, s.keys}, seed + 7, 0.6), k,
                          window);
}

TEST(SparseKAttention, FollowsItsCausalDefinition) {
  EXPECT_TRUE(follows_causally<float>(odd, 10, 7, 10));
  EXPECT_TRUE(follows_causally<float>(odd, 3, 1, 11));
  EXPECT_TRUE(follows_causally<float>(odd, 0, 20, 12));
  EXPECT_TRUE(follows_causally<float>(odd, 500, 20, 13));
  EXPECT_TRUE(follows_causally<double>(odd, 10, 7, 14));
  EXPECT_TRUE(follows_causally<bfloat16>(odd, 10, 7, 15));
  EXPECT_TRUE(follows_causally<float>({.queries = 600, .keys = 600}, 40, 30, 16));
  EXPECT_TRUE(follows_causally<float>({.queries = 30, .keys = 11}, 2, 3, 17));
}

TEST(SparseKAttention, MayHaveNothing) {
  EXPECT_TRUE(follows<float>(0, 20));
  EXPECT_TRUE(follows<float>(500, 21));
  EXPECT_TRUE(follows_causally<float>({.queries = 3, .keys = 0}, 2, 3, 22));
  EXPECT_TRUE(follows_causally<float>({.queries = 0, .keys = 4}, 2, 3, 23));
  EXPECT_TRUE(follows_causally<float>({.queries = 1, .keys = 1}, 0, 1, 24));
}

TEST(SparseKAttention, TakesTheLowerOfEqualScores) {
  auto const in = test::random_inputs<float>(odd, 25);
  auto scores = test::filled<float, 3>({2, 2, 83}, 0);
  std::mt19937 engine(1);
  for (float& u : scores.elements) u = static_cast<float>(engine() % 4) / 4;
  for (index_t k : {1, 10, 40}) {
    EXPECT_TRUE(follows(in, scores, k));
    EXPECT_TRUE(follows_causally(in, scores, k, 7));
  }
}

TEST(SparseKAttention, ShowsAValueToThoseThatSeeIt) {
  auto const in = test::with_nan_values(test::random_inputs<float>(odd, 26));
  auto const scores = test::normal<float, 3>({2, 2, 83}, 27);
  EXPECT_TRUE(follows(in, scores, 20));
  EXPECT_TRUE(follows_causally(in, scores, 10, 7));
}

TEST(SparseKAttention, TakesScoresThatMayBeWritten) {
  auto const in = test::random_inputs<float>(odd, 30);
  auto scores = test::normal<float, 3>({2, 2, 83}, 31);
  auto got = test::filled<float, 4>({2, 4, 60, 13}, 7), expected = got;
  sparse_k_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), scores.view(), 9);
  sparse_k_attention(in.query.view(), in.key.view(), in.value.view(), expected.view(), std::as_const(scores).view(), 9);
  EXPECT_TRUE(test::same_bits(got.elements, expected.elements));
  tensor_view<float, 3> const shared(got.elements.data(), {2, 2, 83});
  test::expect_error("output: expected memory of its own, got memory that overlaps scores", [&] {
    sparse_k_causal_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), shared, 9, 3);
  });
}

TEST(SparseKAttention, IsDenseWhereAllAreChosen) {
  auto const in = test::random_inputs<float>(odd, 5);
  auto const scores = test::normal<float, 3>({2, 2, 83}, 6);
  auto got = test::filled<float, 4>({2, 4, 60, 13}, 7), dense = got;
  sparse_k_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), scores.view(), 83);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view());
  EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(5)));
  sparse_k_causal_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), scores.view(), 83, 5);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view(), causal{});
  EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(5)));
}

TEST(SparseKAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 5, .keys = 9}, 7);
  auto const scores = test::normal<float, 3>({1, 1, 9}, 8), few = test::normal<float, 3>({1, 1, 8}, 8);
  auto output = test::filled<float, 4>({1, 1, 5, 8}, 7);
  auto const call = [&](auto const& u, index_t k, auto const&... options) {
    sparse_k_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), u.view(), k, options...);
  };
  test::expect_error("scores: expected tokens 9 (as key), got 8", [&] { call(few, 2); });
  test::expect_error("k: expected at least 0, got -1", [&] { call(scores, -1); });
  test::expect_error("window: expected 1 to 536870911 tokens, got 0", [&] {
    sparse_k_causal_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), scores.view(), 2, 0);
  });
  auto const causally = [&](auto const& u, index_t k, auto const&... options) {
    sparse_k_causal_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), u.view(), k, 2,
                              options...);
  };
  auto const heads = test::normal<float, 3>({1, 2, 9}, 9), batches = test::normal<float, 3>({2, 1, 9}, 10);
  test::expect_error("scores: expected heads 1 (as key), got 2", [&] { call(heads, 2); });
  test::expect_error("scores: expected batch 1 (as key), got 2", [&] { causally(batches, 2); });
  test::expect_error("k: expected at least 0, got -1", [&] { causally(scores, -1); });
  test::expect_error("threads: expected a count of at least 0, got -1", [&] { causally(scores, 2, threads{-1}); });
  double const u = 1;
  double weight = 7;
  test::expect_error("k: expected at least 0, got -1", [&] { sparse_k(&u, 1, -1, &weight); });
  test::expect_error("count: expected at least 0, got -1", [&] { sparse_k(&u, -1, 1, &weight); });
  EXPECT_EQ(weight, 7);
  test::expect_scale_error([&](scale const& factor) { call(scores, 2, factor); });
  test::expect_scale_error([&](scale const& factor) {
    sparse_k_causal_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), scores.view(), 2, 4,
                              factor);
  });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
