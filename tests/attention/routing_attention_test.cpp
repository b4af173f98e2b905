// SPDX-License-Identifier: BSD-3-Clause
// Routing attention: against its definition, causal and not; dense with one cluster of all; the k-means step.
#include <attend/attention/sparse_prefill/routing_attention.hpp>
#include <attend/reference/routing_attention.hpp>

#include "support/chosen_inputs.hpp"
#include "support/selected.hpp"

namespace attend {
using namespace options;
using namespace systems;

namespace {

using test::sizes;

template <bool Causal, class T>
testing::AssertionResult follows(test::inputs<T> const& in, test::tensor<accumulation_t<T>, 3> const& centroids,
                                 index_t most) {
  using A = accumulation_t<T>;
  sizes const& s = in.size;
  index_t const clusters = centroids.extents[1];
  auto got = test::filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7)), again = got;
  auto const call = [&](auto& to, auto... options) {
    routing_attention(in.query.view(), in.key.view(), in.value.view(), to.view(), centroids.view(), most, options...);
  };
  if constexpr (Causal) {
    call(got, causal{});
    call(again, causal{}, threads{3});
  } else {
    call(got);
    call(again, threads{3});
  }
  EXPECT_TRUE(test::same_bits(got.elements, again.elements)) << "other bits on three threads";
  index_t const each = most > 0 || clusters == 0 ? most : (std::max(s.queries, s.keys) + clusters - 1) / clusters;
  return test::near(got.elements,
                    reference::routing_attention<T, A>(in.query.view(), in.key.view(), in.value.view(),
                                                       centroids.view(), each, Causal),
                    test::tolerance<T>(test::largest_magnitude(in.value.elements)));
}
template <bool Causal, class T>
testing::AssertionResult follows(sizes const& s, index_t clusters, index_t most, unsigned seed) {
  return follows<Causal>(test::random_inputs<T>(s, seed),
                         test::normal<accumulation_t<T>, 3>({s.query_heads, clusters, s.key_dimension}, seed + 5),
                         most);
}

sizes const odd{.batches = 2,
                .query_heads = 4,
                .key_heads = 2,
                .value_heads = 1,
                .queries = 90,
                .keys = 103,
                .key_dimension = 20,
                .value_dimension = 13};

TEST(RoutingAttention, FollowsItsDefinition) {
  EXPECT_TRUE((follows<false, float>(odd, 7, 0, 1)));
  EXPECT_TRUE((follows<false, float>(odd, 3, 60, 2)));
  EXPECT_TRUE((follows<true, float>(odd, 9, 12, 3)));
  EXPECT_TRUE((follows<true, float>(odd, 1, 200, 4)));
  EXPECT_TRUE((follows<true, float>({.queries = 500, .keys = 500}, 2, 420, 5)));
}

TEST(RoutingAttention, MayHaveNothing) {
  EXPECT_TRUE((follows<false, float>({.queries = 4, .keys = 0}, 2, 3, 6)));
  EXPECT_TRUE((follows<false, float>({.queries = 0, .keys = 4}, 2, 3, 7)));
  EXPECT_TRUE((follows<true, float>({.queries = 4, .keys = 4}, 0, 0, 8)));
}

TEST(RoutingAttention, FollowsItsDefinitionInOtherTypes) {
  EXPECT_TRUE((follows<true, double>(odd, 5, 30, 9)));
  EXPECT_TRUE((follows<true, bfloat16>(odd, 5, 30, 10)));
}

TEST(RoutingAttention, TakesTheLowerOfEqualTokens) {
  auto const in = test::whole_number_inputs<float>({.queries = 90, .keys = 103, .key_dimension = 4}, 20);
  auto const centroids = test::whole_number_inputs<float>({.queries = 3, .key_dimension = 4}, 21).query;
  EXPECT_TRUE((follows<false>(in, {{1, 3, 4}, centroids.elements}, 20)));
  EXPECT_TRUE((follows<true>(in, {{1, 3, 4}, centroids.elements}, 20)));
}

TEST(RoutingAttention, ShowsAValueToItsCluster) {
  auto const in = test::with_nan_values(test::random_inputs<float>(odd, 22));
  EXPECT_TRUE((follows<true>(in, test::normal<float, 3>({4, 6, 20}, 23), 15)));
}

TEST(RoutingAttention, IsDenseWithOneClusterOfAll) {
  auto const in = test::random_inputs<float>(odd, 11);
  auto const centroids = test::normal<float, 3>({4, 1, 20}, 12);
  auto got = test::filled<float, 4>({2, 4, 90, 13}, 7), dense = got;
  routing_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), centroids.view(), 0, causal{});
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view(), causal{});
  EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(5)));
}

TEST(RoutingAttention, CentroidsFollowTheirTokens) {
  auto const in = test::random_inputs<float>(odd, 13);
  auto centroids = test::normal<float, 3>({4, 6, 20}, 14);
  auto const expected =
      reference::updated_centroids<float, float>(std::as_const(centroids).view(), in.query.view(), in.key.view(), 0.9);
  auto alone = centroids;
  update_centroids(centroids.view(), in.query.view(), in.key.view(), 0.9, threads{2});
  update_centroids(alone.view(), in.query.view(), in.key.view(), 0.9);
  EXPECT_TRUE(test::same_bits(centroids.elements, alone.elements)) << "other bits on two threads";
  EXPECT_TRUE(test::near(centroids.elements, expected, test::tolerance<float>(1)));
}

TEST(RoutingAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 5, .keys = 9}, 15);
  auto output = test::filled<float, 4>({1, 1, 5, 8}, 7);
  auto centroids = test::filled<float, 3>({1, 2, 8}, 1), few = test::filled<float, 3>({1, 2, 7}, 1);
  auto const call = [&](auto& with, index_t most, auto const&... options) {
    routing_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), with.view(), most, options...);
  };
  test::expect_error("centroids: expected dimension 8 (as query), got 7", [&] { call(few, 1); });
  test::expect_error("most: expected at least 0 tokens of a cluster, got -1", [&] { call(centroids, -1); });
  test::expect_error("causal: expected the last query at the last key (offset 4), got offset 0", [&] {
    routing_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), centroids.view(), 1,
                      causal{top_left});
  });
  test::expect_error("output: expected memory of its own, got memory that overlaps centroids", [&] {
    routing_attention(in.query.view(), in.key.view(), in.value.view(), output.view(),
                      tensor_view<float, 3>(output.elements.data(), {1, 2, 8}), 1);
  });
  auto queries = in.query;
  test::expect_error("centroids: expected memory of its own, got memory that overlaps query", [&] {
    update_centroids(tensor_view<float, 3>(queries.elements.data(), {1, 2, 8}), queries.view(), in.key.view(), 0.5);
  });
  test::expect_error("decay: expected a number from 0 to 1, got 2",
                     [&] { update_centroids(centroids.view(), in.query.view(), in.key.view(), 2); });
  test::expect_error("threads: expected a count of at least 0, got -1",
                     [&] { update_centroids(centroids.view(), in.query.view(), in.key.view(), 0.9, threads{-1}); });
  test::expect_scale_error([&](scale const& factor) { call(centroids, 1, factor); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
  for (float x : centroids.elements) EXPECT_EQ(x, 1);
}

}  // namespace
}  // namespace attend
