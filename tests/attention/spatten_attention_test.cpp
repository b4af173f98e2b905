// SPDX-License-Identifier: BSD-3-Clause
// SpAtten: the definition in double on what the planes store, with flat and peaked rows, few values and skipped heads;
// the planes together are closer to what was appended; all planes and all values are attention to the planes; the
// bytes that are counted; wrong input.
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/attention/sparse_decode/spatten_attention.hpp>

#include <map>

#include "support/cached_tokens.hpp"
#include "support/count_allocations.hpp"

namespace attend {
using namespace caches;
using namespace extend;
using namespace systems;
using namespace options;

namespace {

using test::expect_error;
using test::sizes;
using test::tokens_of;

template <class First, class Second>
struct double_rows {
  std::vector<std::vector<double>> first, both;
};

/// A head's keys or values, of the first plane and of both.
template <class First, class Second>
auto rows_of(bit_plane_cache<First, Second> const& cache, index_t s, index_t head, bool keys) {
  double_rows<First, Second> result;
  auto const first = test::stored_rows(cache.first(), s, head), second = test::stored_rows(cache.second(), s, head);
  EXPECT_EQ(first.size(), second.size());
  for (std::size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i].position, second[i].position);
    auto const& one = keys ? first[i].key : first[i].value;
    auto const& rest = keys ? second[i].key : second[i].value;
    result.first.emplace_back(one.begin(), one.end());
    result.both.emplace_back(one.begin(), one.end());
    for (std::size_t c = 0; c < one.size(); ++c) result.both.back()[c] += static_cast<double>(rest[c]);
  }
  return result;
}

struct expected_row {
  std::vector<double> output, weights;
  bool flat = false;
};

/// The definition, in double.
template <class Planes>
expected_row definition(std::vector<double> const& q, Planes const& keys, Planes const& values, double threshold,
                        index_t tokens) {
  std::size_t const count = keys.first.size();
  auto const softmax = [&](std::vector<std::vector<double>> const& rows) {
    std::vector<double> p;
    double most = -1e300, sum = 0;
    for (auto const& row : rows)
      p.push_back(std::inner_product(q.begin(), q.end(), row.begin(), 0.) / std::sqrt(static_cast<double>(q.size())));
    for (double s : p) most = std::max(most, s);
    for (double& s : p) sum += s = std::exp(s - most);
    for (double& s : p) s /= sum;
    return p;
  };
  expected_row result;
  result.weights = softmax(keys.first);
  result.flat = *std::max_element(result.weights.begin(), result.weights.end()) < threshold;
  if (result.flat) result.weights = softmax(keys.both);
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return result.weights[a] > result.weights[b]; });
  if (tokens > 0) order.resize(std::min(count, static_cast<std::size_t>(tokens)));
  result.output.assign(values.first[0].size(), 0);
  for (std::size_t j : order)
    for (std::size_t c = 0; c < result.output.size(); ++c)
      result.output[c] += result.weights[j] * (result.flat ? values.both : values.first)[j][c];
  return result;
}

/// Returns how many rows were flat.
template <class T, class First, class Second>
index_t expect_definition(sizes const& s, double threshold, index_t values, unsigned seed) {
  auto in = test::random_inputs<T>(s, seed);
  // Queries of some heads are long, so that their rows are peaked.
  for (std::size_t i = 0; i < in.query.elements.size(); ++i)
    if (i / static_cast<std::size_t>(s.queries * s.key_dimension) % 2)
      in.query.elements[i] = static_cast<T>(4 * static_cast<float>(in.query.elements[i]));
  bit_plane_cache<First, Second> cache(test::shape_of(s), {.pages = 400, .page_tokens = 4});
  cache.append(in.key.view(), in.value.view());
  cache.evict(
      [](auto const& tokens, std::span<bool> stays) {
        for (std::size_t i = 0; i < stays.size(); ++i) stays[i] = (tokens.position[i] + tokens.head) % 5 != 2;
      },
      1);
  auto output = test::filled<T, 4>({s.batches, s.query_heads, 1, s.value_dimension}, T(7));
  spatten_counts counts;
  auto const query = tokens_of(in.query, s.queries - 1, 1);
  spatten_attention(query, cache, output.view(), {threshold, values, &counts});
  index_t const group = s.query_heads / s.key_heads;
  index_t flat = 0, first_bytes = 0, second_bytes = 0, value_bytes = 0;
  auto const row_bytes = [](auto const* element, index_t dimension) {
    using S = std::remove_cvref_t<decltype(*element)>;
    return divide_up(dimension, elements_in<S>) * static_cast<index_t>(sizeof(S)) + 4;
  };
  First const* const one = nullptr;
  Second const* const other = nullptr;
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t head = 0; head < s.key_heads; ++head) {
      auto const keys = rows_of(cache, b, head, true), of_values = rows_of(cache, b, head, false);
      auto const rows = static_cast<index_t>(keys.first.size());
      std::vector<double> score(keys.first.size(), 0.);
      bool any = false;
      for (index_t h = head * group; h < (head + 1) * group; ++h) {
        std::vector<double> q;
        for (index_t c = 0; c < s.key_dimension; ++c) q.push_back(static_cast<double>(query(b, h, 0, c)));
        auto const expected = definition(q, keys, of_values, threshold, values);
        std::vector<T> got(&output.view()(b, h, 0, 0), &output.view()(b, h, 0, 0) + s.value_dimension);
        EXPECT_TRUE(test::near(got, expected.output, test::tolerance<T>(8))) << "head " << h;
        for (std::size_t j = 0; j < score.size(); ++j) score[j] += expected.weights[j];
        flat += expected.flat;
        any = any || expected.flat;
        value_bytes += (values > 0 ? std::min(values, rows) : rows) *
                       (row_bytes(one, s.value_dimension) + (expected.flat ? row_bytes(other, s.value_dimension) : 0));
      }
      first_bytes += rows * row_bytes(one, s.key_dimension);
      if (any) second_bytes += rows * row_bytes(other, s.key_dimension);
      for (std::size_t j = 0; j < score.size(); ++j)
        EXPECT_NEAR(static_cast<double>(cache.scores(b, head, static_cast<index_t>(j))[0]), score[j],
                    // Queries of 16 bits may be multiplied as integers, which rounds them.
                    test::tolerance<T>(static_cast<double>(group)));
    }
  EXPECT_EQ(counts.rows, s.batches * s.query_heads);
  EXPECT_EQ(counts.flat_rows, flat);
  EXPECT_EQ(counts.first_keys, first_bytes);
  EXPECT_EQ(counts.second_keys, second_bytes);
  EXPECT_EQ(counts.values, value_bytes);
  return flat;
}

TEST(SpattenAttention, FollowsItsDefinition) {
  sizes const grouped{2, 6, 2, 2, 3, 90, 40, 13}, whole{1, 8, 8, 8, 1, 70, 128, 128};
  index_t const some = expect_definition<float, int4_pair, int4_pair>(grouped, 0.15, 7, 1);
  EXPECT_GT(some, 0);
  EXPECT_LT(some, 12);
  expect_definition<float, int4_pair, int4_pair>(whole, 0.15, 0, 2);
  expect_definition<float, std::int8_t, int4_pair>(grouped, 0.15, 20, 3);
  EXPECT_EQ((expect_definition<float, int4_pair, std::int8_t>(grouped, 0, 7, 4)), 0);
  EXPECT_EQ((expect_definition<bfloat16, int4_pair, int4_pair>(whole, 2, 500, 5)), 8);
}

TEST(IntegerScores, AreTheProductsOfStoredIntegers) {
  auto const check = [&]<class Key>(Key, index_t dimension, index_t queries) {
    sizes const s{1, 1, 1, 1, queries, 150, dimension, 8};
    auto const in = test::random_inputs<float>(s, static_cast<unsigned>(dimension + queries));
    evicting_cache<Key> cache(test::shape_of(s), {.pages = 50, .page_tokens = 4});
    cache.append(in.key.view(), in.value.view());
    cache.evict(0, 0, std::vector<int>{3, 4, 90});
    std::vector<float> got(static_cast<std::size_t>(queries * 200), 7.f);
    attend::detail::score_stored_integers(
        cache, 0, 0, 5, 140, queries, [&](index_t i) { return &in.query.view()(0, 0, i, 0); }, got.data(), 200);
    auto const rows = test::stored_rows(cache, 0, 0);
    for (index_t i = 0; i < queries; ++i) {
      double most = 0;
      for (index_t c = 0; c < dimension; ++c)
        most = std::max(most, std::abs(static_cast<double>(in.query.view()(0, 0, i, c))));
      for (index_t row = 5; row < 140; ++row) {
        auto const& key = rows[static_cast<std::size_t>(row)].key;
        double sum = 0, magnitude = 0;
        for (index_t c = 0; c < dimension; ++c) {
          auto const k = static_cast<double>(key[static_cast<std::size_t>(c)]);
          sum += static_cast<double>(in.query.view()(0, 0, i, c)) * k;
          magnitude += std::abs(k);
        }
        // Half a step of the 32767 that the largest element has, of a query's elements each.
        EXPECT_NEAR(static_cast<double>(got[static_cast<std::size_t>(i * 200 + row - 5)]), sum,
                    magnitude * most * (0.5 / 32767 + 1e-6));
      }
      EXPECT_EQ(got[static_cast<std::size_t>(i * 200 + 135)], 7);
    }
  };
  for (index_t queries : {1, 3, 4, 17}) {
    check(int4_pair(), 128, queries);
    check(std::int8_t(), 64, queries);
  }
  check(int4_pair(), 30, 2);
  check(std::int8_t(), 7, 5);
}

// Each plane's error is at most half of its step, which the second scale makes small.
TEST(BitPlanes, AddUpToWhatWasAppended) {
  sizes const s{1, 2, 2, 2, 1, 30, 40, 40};
  auto const in = test::random_inputs<float>(s, 6);
  auto const check = [&]<class First, class Second>(First, Second, double first_steps, double second_steps) {
    bit_plane_cache<First, Second> cache(test::shape_of(s), {.pages = 20, .page_tokens = 4});
    cache.append(in.key.view(), in.value.view());
    for (index_t head : {0, 1})
      for (bool keys : {true, false}) {
        auto const rows = rows_of(cache, 0, head, keys);
        for (index_t t = 0; t < 30; ++t) {
          double most = 0;
          auto const at = [&](index_t c) {
            return static_cast<double>((keys ? in.key : in.value).view()(0, head, t, c));
          };
          for (index_t c = 0; c < 40; ++c) most = std::max(most, std::abs(at(c)));
          for (index_t c = 0; c < 40; ++c) {
            auto const i = static_cast<std::size_t>(t), j = static_cast<std::size_t>(c);
            double const step = most / first_steps, roundoff = most * 1e-6;
            EXPECT_LE(std::abs(rows.first[i][j] - at(c)), step / 2 + roundoff);
            EXPECT_LE(std::abs(rows.both[i][j] - at(c)), step / 4 / second_steps + roundoff);
          }
        }
      }
    EXPECT_EQ(cache.bytes(), cache.first().bytes() + cache.second().bytes());
  };
  check(int4_pair(), int4_pair(), 7, 7);
  check(std::int8_t(), int4_pair(), 127, 7);
}

TEST(BitPlanes, ForkTruncateAndEvictTogether) {
  test::token_tensors<float> const tensors(2, 40, 8, 8, 7);
  bit_plane_cache<> cache({3, 2, 8, 8}, {.pages = 60, .page_tokens = 4}),
      other({3, 2, 8, 8}, {.pages = 60, .page_tokens = 4});
  tensors.append_to(cache, 0, 0, 20);
  tensors.append_to(other, 1, 0, 17);
  cache.fork(0, 1, 17);
  cache.evict(0, 1, std::vector<int>{0, 5});
  tensors.append_to(cache, 1, 20, 4), tensors.append_to(other, 1, 20, 4);
  cache.truncate(1, 19), other.truncate(1, 19);
  cache.evict(1, 0, std::vector<int>{1, 2}), other.evict(1, 0, std::vector<int>{1, 2});
  for (index_t head : {0, 1}) {
    EXPECT_EQ(test::stored_rows(cache.first(), 1, head), test::stored_rows(other.first(), 1, head));
    EXPECT_EQ(test::stored_rows(cache.second(), 1, head), test::stored_rows(other.second(), 1, head));
  }
}

TEST(SpattenAttention, IsAttentionToTheFirstPlaneWhereNothingIsPruned) {
  sizes const s{1, 8, 2, 2, 1, 200, 64, 64};
  auto const in = test::random_inputs<float>(s, 8);
  bit_plane_cache<> cache(test::shape_of(s), {.pages = 60, .page_tokens = 8});
  cache.append(in.key.view(), in.value.view());
  auto got = test::filled<float, 4>({1, 8, 1, 64}, 7), expected = got;
  std::vector<float> gates(8, 1);
  gates[3] = 0, gates[5] = 0.5f;
  auto const heads = head_gates(tensor_view<float const, 1>(gates.data(), {8}));
  spatten_attention(in.query.view(), cache, got.view(), {.threshold = 0}, heads, scale(0.3));
  decode_attention(in.query.view(), cache.first(), expected.view(), heads, scale(0.3));
  EXPECT_TRUE(test::near(got.elements, std::vector<double>(expected.elements.begin(), expected.elements.end()),
                         test::tolerance<float>(8)));
  for (int count : {1, 3}) {
    auto again = got;
    spatten_attention(in.query.view(), cache, again.view(), {.threshold = 0}, heads, scale(0.3), threads{count});
    EXPECT_TRUE(test::same_bits(again.elements, got.elements));
  }
  auto const call = [&] { spatten_attention(in.query.view(), cache, got.view(), {.threshold = 1, .values = 9}); };
  EXPECT_EQ(test::allocations_of_two(call).second, 0);
}

TEST(SpattenAttention, KeepsNanAndInfinityOfQueries) {
  sizes const s{1, 4, 2, 2, 1, 20, 32, 8};
  auto in = test::random_inputs<float>(s, 10);
  bit_plane_cache<> cache(test::shape_of(s), {.pages = 60, .page_tokens = 8});
  cache.append(in.key.view(), in.value.view());
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), infinity<float>})
    for (index_t values : {0, 3}) {
      in.query.view()(0, 1, 0, 5) = bad;
      auto output = test::filled<float, 4>({1, 4, 1, 8}, 7);
      spatten_attention(in.query.view(), cache, output.view(), {.threshold = 0.1, .values = values});
      for (index_t h = 0; h < 4; ++h)
        for (index_t c = 0; c < 8; ++c) EXPECT_EQ(std::isnan(output.view()(0, h, 0, c)), h == 1) << h;
      for (index_t row = 0; row < 20; ++row) EXPECT_TRUE(std::isfinite(cache.scores(0, 0, row)[0]));
    }
}

TEST(SpattenAttention, RefusesWhatDoesNotFit) {
  sizes const s{1, 4, 2, 2, 2, 9, 8, 8};
  auto const in = test::random_inputs<float>(s, 9);
  bit_plane_cache<> cache(test::shape_of(s), {.pages = 60, .page_tokens = 8});
  cache.append(in.key.view(), in.value.view());
  auto output = test::filled<float, 4>({1, 4, 1, 8}, 7), wide = test::filled<float, 4>({1, 4, 1, 9}, 7);
  auto const query = tokens_of(in.query, 1, 1);
  expect_error("query: expected tokens 1 (as a decoding step), got 2",
               [&] { spatten_attention(in.query.view(), cache, output.view(), {}); });
  expect_error("output: expected head dimension 8 (as the cache), got 9",
               [&] { spatten_attention(query, cache, wide.view(), {}); });
  expect_error("threshold: expected at least 0, got -1",
               [&] { spatten_attention(query, cache, output.view(), {.threshold = -1}); });
  expect_error("values: expected at least 0 tokens, got -1",
               [&] { spatten_attention(query, cache, output.view(), {.values = -1}); });
  test::expect_scale_error([&](auto const& factor) { spatten_attention(query, cache, output.view(), {}, factor); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
  EXPECT_EQ(cache.scores(0, 0, 0)[0], 0);
}

}  // namespace
}  // namespace attend
