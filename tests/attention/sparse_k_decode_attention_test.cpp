// SPDX-License-Identifier: BSD-3-Clause
// SparseK decoding: token by token it is the causal form, row by row; in constant memory; with few remembered scores it
// is the operator on the largest of them; wrong input.
#include <attend/attention/sparse_decode/sparse_k_decode_attention.hpp>
#include <attend/reference/sparse_k.hpp>

#include "support/cached_tokens.hpp"
#include "support/count_allocations.hpp"

namespace attend {
using namespace caches;
using namespace extend;
using namespace systems;

namespace {

using test::expect_error;
using test::sizes;
using test::tokens_of;

sizes const grouped{.batches = 2,
                    .query_heads = 4,
                    .key_heads = 2,
                    .value_heads = 2,
                    .queries = 83,
                    .keys = 83,
                    .key_dimension = 20,
                    .value_dimension = 13};

/// All rows, by appending tokens in pieces and attending from the last one of each.
template <class Key, class Value, class T>
test::tensor<T, 4> decoded(sparse_k_cache<Key, Value>& cache, test::inputs<T> const& in,
                           test::tensor<accumulation_t<T>, 3>& scores, index_t piece) {
  sizes const& s = in.size;
  auto output = test::filled<T, 4>({s.batches, s.query_heads, s.keys, s.value_dimension}, T(0));
  for (index_t first = 0; first < s.keys; first += piece) {
    index_t const count = std::min(piece, s.keys - first);
    cache.append(tokens_of(in.key, first, count), tokens_of(in.value, first, count), tokens_of(scores, first, count));
    sparse_k_decode_attention(tokens_of(in.query, first + count - 1, 1), cache,
                              tokens_of(output, first + count - 1, 1));
  }
  return output;
}

template <class T>
void expect_causal(sizes const& s, sparse_k_budget const& budget, unsigned seed, double deviation = 0.6) {
  using A = accumulation_t<T>;
  auto const in = test::random_inputs<T>(s, seed);
  auto scores = test::normal<A, 3>({s.batches, s.key_heads, s.keys}, seed + 7, deviation);
  for (std::size_t i = 0; i < scores.elements.size(); i += 11) scores.elements[i] = scores.elements[i / 2];
  auto const expected = reference::sparse_k_causal_attention<T, A>(in.query.view(), in.key.view(), in.value.view(),
                                                                   scores.view(), budget.chosen, budget.window);
  for (index_t piece : {1, 5}) {
    sparse_k_cache<T> cache(test::shape_of(s), budget);
    index_t const bytes = cache.bytes();
    auto const got = decoded(cache, in, scores, piece);
    EXPECT_EQ(cache.bytes(), bytes);
    for (index_t b = 0; b < s.batches; ++b)
      for (index_t head = 0; head < s.key_heads; ++head) {
        EXPECT_FALSE(cache.forgets_scores(b, head));
        EXPECT_EQ(cache.stored(b, head), std::min(budget.window, s.keys) +
                                             std::min(budget.chosen, std::max<index_t>(s.keys - budget.window, 0)));
      }
    std::vector<double> rows;
    std::vector<T> decoded_rows;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      index_t const token = static_cast<index_t>(i) / s.value_dimension % s.keys;
      if ((token + 1) % piece != 0 && token + 1 != s.keys) continue;
      rows.push_back(expected[i]);
      decoded_rows.push_back(got.elements[i]);
    }
    EXPECT_TRUE(test::near(decoded_rows, rows, test::tolerance<T>(test::largest_magnitude(in.value.elements))))
        << "pieces of " << piece;
  }
}

TEST(SparseKDecodeAttention, IsTheCausalFormRowByRow) {
  expect_causal<double>(grouped, {.chosen = 10, .window = 7, .scores = 83}, 1);
  expect_causal<double>(grouped, {.chosen = 3, .window = 1, .scores = 83}, 2, 5.0);
  expect_causal<double>(grouped, {.chosen = 0, .window = 20}, 3);
  expect_causal<double>(grouped, {.chosen = 500, .window = 20, .scores = 600}, 4);
  expect_causal<double>(grouped, {.chosen = 5, .window = 200}, 5);
  expect_causal<float>(grouped, {.chosen = 10, .window = 7, .scores = 83}, 6);
  expect_causal<bfloat16>(grouped, {.chosen = 10, .window = 7, .scores = 83}, 7);
}

// The k best, in the order of positions, with the operator's weights on as many of the largest scores as are
// remembered.
TEST(SparseKDecodeAttention, RemembersTheLargestScores) {
  index_t const tokens = 150, chosen = 6, window = 3;
  for (index_t remembered : {6, 9, 150}) {
    sparse_k_cache<double> cache({1, 1, 2, 2}, {.chosen = chosen, .window = window, .scores = remembered});
    std::mt19937 engine(static_cast<unsigned>(remembered));
    std::normal_distribution<double> distribution(0, 0.3);
    std::vector<double> others, in_window;
    auto const row = test::filled<double, 3>({1, 1, 2}, 1);
    bool forgot = false;
    for (index_t t = 0; t < tokens; ++t) {
      auto score = test::filled<double, 2>({1, 1}, distribution(engine));
      cache.append(0, row.view(), row.view(), score.view());
      in_window.push_back(score.elements[0]);
      if (t >= window) others.push_back(in_window[static_cast<std::size_t>(t - window)]);
      std::vector<double> largest = others;
      std::sort(largest.begin(), largest.end(), std::greater<>());
      auto const above = [&](std::vector<double> const& p) {
        return std::count_if(p.begin(), p.end(), [](double x) { return x > 0; });
      };
      if (!largest.empty()) forgot = forgot || above(reference::sparse_k(largest, chosen)) > remembered;
      largest.resize(std::min(largest.size(), static_cast<std::size_t>(remembered)));
      std::vector<double> expected;
      if (!largest.empty()) expected = reference::sparse_k(largest, chosen);
      expected.resize(std::min(largest.size(), static_cast<std::size_t>(chosen)));
      auto const gates = cache.gates();
      std::vector<double> got;
      for (std::size_t i = 0; i < expected.size(); ++i) got.push_back(gates(0, 0, static_cast<index_t>(i)));
      std::sort(got.begin(), got.end(), std::greater<>());
      ASSERT_TRUE(test::near(got, expected, test::tolerance<double>(3))) << t;
      EXPECT_LE(forgot, cache.forgets_scores(0, 0));
    }
    EXPECT_EQ(cache.forgets_scores(0, 0), remembered < 150);
  }
}

TEST(SparseKDecodeAttention, HasTheSameBitsForAnyThreadsAndQuantizes) {
  auto const in = test::random_inputs<float>(grouped, 8);
  auto tokens = test::normal<float, 3>({2, 2, 83}, 9);
  sparse_k_cache<std::int8_t, int4_pair> cache(test::shape_of(grouped), {.chosen = 20, .window = 9});
  cache.append(in.key.view(), in.value.view(), tokens.view());
  auto const query = tokens_of(in.query, 82, 1);
  auto expected = test::filled<float, 4>({2, 4, 1, 13}, 7);
  sparse_k_decode_attention(query, cache, expected.view());
  for (int count : {1, 3}) {
    auto got = test::filled<float, 4>({2, 4, 1, 13}, 7);
    sparse_k_decode_attention(query, cache, got.view(), threads{count});
    EXPECT_TRUE(test::same_bits(got.elements, expected.elements));
  }
  auto const one = [&] {
    cache.append(tokens_of(in.key, 0, 1), tokens_of(in.value, 0, 1), tokens_of(tokens, 0, 1));
    sparse_k_decode_attention(query, cache, expected.view());
  };
  EXPECT_EQ(test::allocations_of_two(one).second, 0);
  cache.clear(0);
  EXPECT_EQ(cache.size(0), 0);
  EXPECT_EQ(cache.stored(0, 1), 0);
  EXPECT_EQ(cache.stored(1, 1), 29);
}

TEST(SparseKDecodeAttention, LeavesOutWhatIsNoScore) {
  sparse_k_cache<float> cache({1, 1, 2, 2}, {.chosen = 2, .window = 1});
  auto const rows = test::normal<float, 4>({1, 1, 5, 2}, 1);
  auto scores = test::filled<float, 3>({1, 1, 5}, 0);
  float const nan = std::numeric_limits<float>::quiet_NaN();
  scores.elements = {nan, 3, -infinity<float>, infinity<float>, 1};
  cache.append(rows.view(), rows.view(), scores.view());
  EXPECT_EQ(cache.stored(0, 0), 3);
  EXPECT_EQ(cache.gates()(0, 0, 0), 1);
  EXPECT_EQ(cache.gates()(0, 0, 1), 1);
}

TEST(SparseKDecodeAttention, RefusesWhatDoesNotFit) {
  cache_shape const shape{1, 2, 4, 3};
  using cache_type = sparse_k_cache<float>;
  expect_error("sparse_k_cache: expected at least 0 chosen tokens, got -1", [&] { cache_type(shape, {.chosen = -1}); });
  expect_error("sparse_k_cache: expected a window of at least 1 token, got 0",
               [&] { cache_type(shape, {.chosen = 1, .window = 0}); });
  expect_error("sparse_k_cache: expected at least 5 scores (chosen), got 4",
               [&] { cache_type(shape, {.chosen = 5, .window = 1, .scores = 4}); });
  expect_error("sparse_k_cache: expected key heads and value heads that keep tokens together, 2 of each, got 1",
               [&] { cache_type({1, 2, 4, 3, 1, 2}, {.chosen = 5}); });
  cache_type cache(shape, {.chosen = 2, .window = 2});
  auto const key = test::filled<float, 4>({1, 2, 3, 4}, 1), value = test::filled<float, 4>({1, 2, 3, 3}, 1);
  auto const scores = test::filled<float, 3>({1, 2, 3}, 1), few = test::filled<float, 3>({1, 2, 2}, 1);
  expect_error("scores: expected tokens 3 (as key), got 2",
               [&] { cache.append(key.view(), value.view(), few.view()); });
  expect_error("key: expected head dimension 4 (as the cache), got 3",
               [&] { cache.append(value.view(), value.view(), scores.view()); });
  expect_error("value: expected head dimension 3 (as the cache), got 4",
               [&] { cache.append(key.view(), key.view(), scores.view()); });
  expect_error("sequence: expected from 0 to 0, got 1",
               [&] { cache.append(1, key.view(), value.view(), scores.view()); });
  EXPECT_EQ(cache.size(0), 0);
  auto const query = test::filled<float, 4>({1, 2, 1, 4}, 1), two = test::filled<float, 4>({1, 2, 2, 4}, 1);
  auto output = test::filled<float, 4>({1, 2, 1, 3}, 7);
  cache.append(key.view(), value.view(), scores.view());
  expect_error("query: expected tokens 1 (as a decoding step), got 2",
               [&] { sparse_k_decode_attention(two.view(), cache, output.view()); });
  EXPECT_EQ(output.elements[0], 7);
}

}  // namespace
}  // namespace attend
