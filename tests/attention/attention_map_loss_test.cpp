// SPDX-License-Identifier: BSD-3-Clause
// Sums of weights over regions of queries and keys, and the gradients of losses on them, against the map itself in
// double.
#include <attend/attention/softmax/attention_map_loss.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/normalizer/sinks.hpp>

#include "support/argument_errors.hpp"

namespace attend::test {
namespace {

using namespace systems;

/// Numbers from 0 to 1, half of them 0.
template <class T>
tensor<T, 4> regions(std::array<index_t, 4> const& extents, unsigned seed) {
  auto made = normal<T, 4>(extents, seed);
  for (T& x : made.elements) x = static_cast<T>(std::clamp(static_cast<double>(x), 0.0, 1.0));
  return made;
}

struct map_gradients {
  std::vector<double> query, key;
  double query_terms = 0, key_terms = 0;
};

/// The gradients of queries and keys from that of each weight, of the map of the definition, pair by pair.
template <class T, class OfWeight>
map_gradients gradients_of_map(inputs<T> const& in, reference::options const& with, OfWeight const& of_weight) {
  auto map = reference::softmax_attention<T>(in.query.view(), in.key.view(), in.value.view(), with);
  sizes const& s = in.size;
  double const scale = 1 / std::sqrt(static_cast<double>(s.key_dimension));
  map_gradients sum{std::vector<double>(in.query.elements.size()), std::vector<double>(in.key.elements.size())};
  map_gradients terms = sum;
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.query_heads; ++h)
      for (index_t i = 0; i < s.queries; ++i) {
        index_t const hk = h / (s.query_heads / s.key_heads);
        double mean = 0, mean_terms = 0;
        for (index_t j = 0; j < s.keys; ++j) {
          mean += map.weight(b, h, i, j) * of_weight(b, h, i, j);
          mean_terms += map.weight(b, h, i, j) * std::abs(of_weight(b, h, i, j));
        }
        for (index_t j = 0; j < s.keys; ++j) {
          double const p = scale * map.weight(b, h, i, j), e = p * (of_weight(b, h, i, j) - mean);
          double const size = p * (std::abs(of_weight(b, h, i, j)) + mean_terms);
          for (index_t c = 0; c < s.key_dimension; ++c) {
            auto const at_q = static_cast<std::size_t>(&in.query.view()(b, h, i, c) - in.query.elements.data());
            auto const at_k = static_cast<std::size_t>(&in.key.view()(b, hk, j, c) - in.key.elements.data());
            double const q = static_cast<double>(in.query.elements[at_q]),
                         k = static_cast<double>(in.key.elements[at_k]);
            sum.query[at_q] += e * k;
            sum.key[at_k] += e * q;
            terms.query[at_q] += size * std::abs(k);
            terms.key[at_k] += size * std::abs(q);
          }
        }
      }
  sum.query_terms = largest_magnitude(terms.query);
  sum.key_terms = largest_magnitude(terms.key);
  return sum;
}

template <class T, class... Options>
void expect_definition(sizes const& s, bool shared, reference::options const& with, Options const&... options) {
  using A = accumulation_t<T>;
  auto const in = random_inputs<T>(s, 3);
  index_t const r = 3, a = 2;
  index_t const b1 = shared ? 1 : s.batches, h1 = shared ? 1 : s.query_heads;
  auto const of_keys = regions<T>({b1, h1, s.keys, r}, 5);
  auto const of_queries = regions<T>({b1, h1, s.queries, a}, 6);
  auto const of_masses = normal<A, 4>({s.batches, s.query_heads, a, r}, 7);
  auto weights = filled<T, 4>({s.batches, s.query_heads, s.queries, r}, T(7));
  auto of_weights = weights;
  auto lse = filled<A, 3>({s.batches, s.query_heads, s.queries}, A(7));
  auto masses = filled<A, 4>(of_masses.extents, A(7));
  auto of_query = filled<T, 4>(in.query.extents, T(7)), of_key = filled<T, 4>(in.key.extents, T(7));
  region_weights(in.query.view(), in.key.view(), of_keys.view(), weights.view(), lse.view(), options...);
  sum_over_queries(weights.view(), of_queries.view(), masses.view());
  spread_over_queries(of_queries.view(), of_masses.view(), of_weights.view());
  region_weights_backward(in.query.view(), in.key.view(), of_keys.view(), weights.view(), lse.view(), of_weights.view(),
                          of_query.view(), of_key.view(), options...);

  auto const at = [](auto const& t, index_t b, index_t h, index_t i, index_t c) {
    return static_cast<double>(shared_element(
        tensor_view<std::remove_cvref_t<decltype(t.elements[0])> const, 4>(t.elements.data(), t.extents), b, h, i, c));
  };
  auto map = reference::softmax_attention<T>(in.query.view(), in.key.view(), in.value.view(), with);
  std::vector<double> expected;
  double largest = 1;
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.query_heads; ++h)
      for (index_t x = 0; x < a; ++x)
        for (index_t y = 0; y < r; ++y) {
          double sum = 0;
          for (index_t i = 0; i < s.queries; ++i)
            for (index_t j = 0; j < s.keys; ++j)
              sum += at(of_queries, b, h, i, x) * map.weight(b, h, i, j) * at(of_keys, b, h, j, y);
          expected.push_back(sum);
          largest = std::max(largest, std::abs(sum));
        }
  // A weight of a region is rounded to T; the sum is one of so many.
  EXPECT_TRUE(near(masses.elements, expected, static_cast<double>(s.queries) * tolerance<T>(1)));
  auto const gradients = gradients_of_map<T>(in, with, [&](index_t b, index_t h, index_t i, index_t j) {
    double sum = 0;
    for (index_t y = 0; y < r; ++y)
      for (index_t x = 0; x < a; ++x)
        sum += at(of_queries, b, h, i, x) * at(of_masses, b, h, x, y) * at(of_keys, b, h, j, y);
    return sum;
  });
  // The gradient of a 16-bit weight is rounded to T, besides the weight.
  double const roundings = std::same_as<T, A> ? 1 : 4;
  // Terms cancel within the gradient of a weight: regions by queries by keys.
  double const cancelled = 4;
  EXPECT_TRUE(near(of_query.elements, gradients.query, roundings * cancelled * tolerance<T>(gradients.query_terms)));
  EXPECT_TRUE(near(of_key.elements, gradients.key, roundings * cancelled * tolerance<T>(gradients.key_terms)));
}

constexpr sizes several{.batches = 2, .query_heads = 4, .key_heads = 2, .queries = 53, .keys = 77, .key_dimension = 24};

TEST(AttentionMapLoss, IsThatOfTheMap) {
  reference::options with;
  expect_definition<float>(several, true, with);
  expect_definition<double>(several, false, with);
  expect_definition<bfloat16>(several, true, with);
  expect_definition<float>({.keys = 1, .key_dimension = 1}, true, with);
  expect_definition<float>({.query_heads = 2, .queries = 0, .keys = 4}, true, with);
  expect_definition<float>({.queries = 3, .keys = 0}, true, with);
}

TEST(AttentionMapLoss, TakesMasksAndSinks) {
  std::vector<float> const logits{0.5f, -1.f, 3.f, 0.f};
  reference::options with;
  with.visible = reference::causal_bottom_right();
  with.sink = [&](index_t head) { return static_cast<double>(logits[static_cast<std::size_t>(head)]); };
  expect_definition<float>(several, false, with, causal{}, sinks(logits));
}

// The loss on a map's mean over heads, a region for each key: its gradient, of one head, holds for all.
TEST(AttentionMapLoss, OfAMeanMapHoldsForAllHeads) {
  sizes const s{.query_heads = 3, .key_heads = 3, .queries = 20, .keys = 6};
  auto const in = random_inputs<float>(s, 9);
  auto identity = filled<float, 2>({6, 6}, 0);
  for (index_t j = 0; j < 6; ++j) identity.view()(j, j) = 1;
  auto const of_mean = normal<float, 4>({1, 1, 20, 6}, 4, 1 / 3.0);
  auto map = filled<float, 4>({1, 3, 20, 6}, 7);
  auto lse = filled<float, 3>({1, 3, 20}, 7);
  auto of_query = filled<float, 4>(in.query.extents, 7), of_key = filled<float, 4>(in.key.extents, 7);
  region_weights(in.query.view(), in.key.view(), identity.view(), map.view(), lse.view());
  region_weights_backward(in.query.view(), in.key.view(), identity.view(), map.view(), lse.view(), of_mean.view(),
                          of_query.view(), of_key.view());
  auto expected = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view());
  EXPECT_TRUE(near(map.elements, expected.weights, tolerance<float>(1)));
  auto const gradients = gradients_of_map<float>(
      in, {}, [&](index_t, index_t, index_t i, index_t j) { return static_cast<double>(of_mean.view()(0, 0, i, j)); });
  EXPECT_TRUE(near(of_query.elements, gradients.query, tolerance<float>(gradients.query_terms)));
  EXPECT_TRUE(near(of_key.elements, gradients.key, tolerance<float>(gradients.key_terms)));
}

/// MAG-Edit's losses as functions of the queries: the ratio of words in an object's region, and of what an object's
/// words get there.
TEST(AttentionMapLoss, RatiosHaveTheirGradients) {
  sizes const s{.batches = 2, .query_heads = 2, .key_heads = 2, .queries = 12, .keys = 7, .key_dimension = 5};
  auto in = random_inputs<double>(s, 11);
  auto of_keys = filled<double, 2>({7, 2}, 0), of_queries = filled<double, 2>({12, 3}, 0);
  for (index_t j : {1, 2}) of_keys.view()(j, 0) = 1;
  of_keys.view()(4, 1) = 1;
  for (index_t i = 0; i < 12; ++i) {
    of_queries.view()(i, 0) = i < 5;
    of_queries.view()(i, 1) = i > 6 && i < 10;
    of_queries.view()(i, 2) = 1;
  }
  std::vector<double> const pairs{10, 3};
  auto weights = filled<double, 4>({2, 2, 12, 2}, 0), of_weights = weights;
  auto lse = filled<double, 3>({2, 2, 12}, 0);
  auto masses = filled<double, 4>({2, 2, 3, 2}, 0), of_masses = masses;
  auto of_query = filled<double, 4>(in.query.extents, 0), of_key = filled<double, 4>(in.key.extents, 0);
  for (bool const spatial : {false, true}) {
    tensor_view<double const, 4> const areas =
        spatial ? raise<4>(std::as_const(of_queries).view())
                : tensor_view<double const, 4>(of_queries.elements.data(), {1, 1, 12, 2}, {0, 0, 3, 1});
    auto const view = [&](auto& tensor) {
      return tensor_view<double, 4>(tensor.elements.data(), {2, 2, spatial ? 3 : 2, 2});
    };
    auto const loss = [&] {
      region_weights(in.query.view(), in.key.view(), of_keys.view(), weights.view(), lse.view());
      sum_over_queries(weights.view(), areas, view(masses));
      return spatial ? spatial_ratio_loss(view(masses), view(of_masses))
                     : token_ratio_loss(view(masses), pairs, view(of_masses));
    };
    double const here = loss();
    // By definition, from the map.
    auto map = reference::softmax_attention<double>(in.query.view(), in.key.view(), in.value.view());
    double expected = 0;
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 2; ++h)
        for (index_t o = 0; o < 2; ++o) {
          double inside = 0, all = 0;
          for (index_t i = 0; i < 12; ++i)
            for (index_t j = 0; j < 7; ++j) {
              double const p = map.weight(b, h, i, j) * of_keys.view()(j, o);
              inside += p * of_queries.view()(i, o);
              all += p;
            }
          double const ratio = inside / pairs[static_cast<std::size_t>(o)];
          expected += (spatial ? 3 - 4 * inside / all : (1 - ratio) * (1 - ratio)) / 8;
        }
    EXPECT_NEAR(here, expected, 1e-12);
    spread_over_queries(areas, view(of_masses), of_weights.view());
    region_weights_backward(in.query.view(), in.key.view(), of_keys.view(), weights.view(), lse.view(),
                            of_weights.view(), of_query.view(), of_key.view());
    for (auto [elements, gradient] :
         {std::pair(&in.query.elements, &of_query.elements), std::pair(&in.key.elements, &of_key.elements)})
      for (std::size_t n = 0; n < elements->size(); n += 7) {
        double& x = (*elements)[n];
        double const before = std::exchange(x, x + 1e-5), above = loss();
        x = before - 1e-5;
        double const below = loss();
        x = before;
        EXPECT_NEAR((*gradient)[n], (above - below) / 2e-5, 1e-8) << n;
      }
    // Steps against the gradient of the queries alone, as a guided sampler takes them, lower the loss.
    auto const kept = in.query.elements;
    for (std::size_t n = 0; n < kept.size(); ++n) in.query.elements[n] -= 2 * of_query.elements[n];
    EXPECT_LT(loss(), here);
    in.query.elements = kept;
  }
}

TEST(AttentionMapLoss, QueriesOutsideRegionsHaveNoInfluence) {
  auto weights = normal<float, 4>({1, 2, 5, 3}, 1);
  std::fill_n(&weights.view()(0, 1, 4, 0), 3, std::numeric_limits<float>::quiet_NaN());
  auto of_queries = filled<float, 2>({5, 1}, 1);
  of_queries.view()(4, 0) = 0;
  auto masses = filled<float, 4>({1, 2, 1, 3}, 7);
  sum_over_queries(weights.view(), of_queries.view(), masses.view());
  for (float x : masses.elements) EXPECT_TRUE(std::isfinite(x));
}

TEST(AttentionMapLoss, BitsAreTheSameForAnyThreads) {
  sizes const s{.query_heads = 2, .key_heads = 2, .queries = 900, .keys = 800, .key_dimension = 16};
  auto const in = random_inputs<float>(s, 13);
  auto const of_keys = regions<float>({1, 1, 800, 4}, 2), of_queries = regions<float>({1, 1, 900, 2}, 3);
  auto const run = [&](auto executor) {
    auto weights = filled<float, 4>({1, 2, 900, 4}, 7), of_weights = weights;
    auto lse = filled<float, 3>({1, 2, 900}, 7);
    auto masses = filled<float, 4>({1, 2, 2, 4}, 7);
    auto of_query = filled<float, 4>(in.query.extents, 7), of_key = filled<float, 4>(in.key.extents, 7);
    region_weights(in.query.view(), in.key.view(), of_keys.view(), weights.view(), lse.view(), executor);
    sum_over_queries(weights.view(), of_queries.view(), masses.view(), executor);
    spread_over_queries(of_queries.view(), masses.view(), of_weights.view(), executor);
    region_weights_backward(in.query.view(), in.key.view(), of_keys.view(), weights.view(), lse.view(),
                            of_weights.view(), of_query.view(), of_key.view(), executor);
    of_query.elements.insert(of_query.elements.end(), of_key.elements.begin(), of_key.elements.end());
    return of_query.elements;
  };
  EXPECT_TRUE(same_bits(run(serial{}), run(threads{3})));
}

TEST(AttentionMapLoss, ArgumentsThatDoNotFitAreNamed) {
  auto const in = random_inputs<float>({.batches = 2, .query_heads = 4, .key_heads = 2, .queries = 5, .keys = 9}, 1);
  auto const of_keys = filled<float, 4>({1, 1, 9, 3}, 1), of_queries = filled<float, 4>({1, 1, 5, 2}, 1);
  auto const wrong_keys = filled<float, 4>({1, 3, 9, 3}, 1), short_keys = filled<float, 4>({1, 1, 8, 3}, 1),
             three = filled<float, 4>({3, 1, 9, 3}, 1);
  auto weights = filled<float, 4>({2, 4, 5, 3}, 7), narrow = filled<float, 4>({2, 4, 5, 2}, 7);
  auto lse = filled<float, 3>({2, 4, 5}, 7), short_lse = filled<float, 3>({2, 4, 4}, 7);
  auto masses = filled<float, 4>({2, 4, 2, 3}, 7), square = filled<float, 4>({2, 4, 3, 3}, 7), other = square;
  auto of_query = filled<float, 4>(in.query.extents, 7), of_key = filled<float, 4>(in.key.extents, 7);
  auto const expect = [&](std::string const& message, auto const& call) {
    expect_error(message, call);
    for (auto const* written : {&weights, &masses, &of_query, &of_key, &square, &other})
      EXPECT_TRUE(std::all_of(written->elements.begin(), written->elements.end(), [](float x) { return x == 7; }))
          << message;
  };
  auto const q = in.query.view(), k = in.key.view();
  auto const call = [&](auto const& c, auto const& w, auto const& l) { region_weights(q, k, c, w, l); };
  expect("key_regions: expected 1 or 4 heads, got 3", [&] { call(wrong_keys.view(), weights.view(), lse.view()); });
  expect("key_regions: expected 1 or 2 batches, got 3", [&] { call(three.view(), weights.view(), lse.view()); });
  expect("key_regions: expected tokens 9 (as key), got 8",
         [&] { call(short_keys.view(), weights.view(), lse.view()); });
  expect("weights: expected regions 3 (as key_regions), got 2",
         [&] { call(of_keys.view(), narrow.view(), lse.view()); });
  expect("log_sum_exp: expected tokens 5 (as query), got 4",
         [&] { call(of_keys.view(), weights.view(), short_lse.view()); });
  auto const back = [&](auto const& c, auto const& w, auto const& of_w, auto const& gk) {
    region_weights_backward(q, k, c, w, lse.view(), of_w, of_query.view(), gk);
  };
  expect("key_regions: expected tokens 9 (as key), got 8",
         [&] { back(short_keys.view(), weights.view(), weights.view(), of_key.view()); });
  expect("weights: expected regions 3 (as key_regions), got 2",
         [&] { back(of_keys.view(), narrow.view(), weights.view(), of_key.view()); });
  expect("of_weights: expected regions 3 (as key_regions), got 2",
         [&] { back(of_keys.view(), weights.view(), narrow.view(), of_key.view()); });
  expect("of_key: expected heads 2 (as key), got 4",
         [&] { back(of_keys.view(), weights.view(), weights.view(), of_query.view()); });
  expect("query_regions: expected tokens 5 (as weights), got 9",
         [&] { sum_over_queries(weights.view(), of_keys.view(), masses.view()); });
  expect("masses: expected regions of queries 2 (as query_regions), got 3",
         [&] { sum_over_queries(weights.view(), of_queries.view(), square.view()); });
  expect("of_masses: expected regions of queries 2 (as query_regions), got 3",
         [&] { spread_over_queries(of_queries.view(), square.view(), weights.view()); });
  expect("masses: expected 3 regions of queries for 3 regions of keys, got 2",
         [&] { token_ratio_loss(masses.view(), std::vector<float>(3), square.view()); });
  expect("pairs: expected objects 3 (as masses), got 2",
         [&] { token_ratio_loss(square.view(), std::vector<float>(2), other.view()); });
  expect("masses: expected 4 regions of queries for 3 regions of keys, got 3",
         [&] { spatial_ratio_loss(square.view(), other.view()); });
  expect("of_masses: expected memory of its own, got memory that overlaps masses",
         [&] { token_ratio_loss(square.view(), std::vector<float>(3), square.view()); });
}

}  // namespace
}  // namespace attend::test
