// SPDX-License-Identifier: BSD-3-Clause
// Attention between regions of images, BiFormer's and all-to-key: against the definitions, and dense where all regions
// are one.
#include <attend/attention/image/a2k_attention.hpp>
#include <attend/attention/image/bi_level_routing_attention.hpp>
#include <attend/reference/image_regions.hpp>

#include "support/chosen_inputs.hpp"
#include "support/selected.hpp"

namespace attend {
using namespace options;
using namespace grids;
using namespace extend;
using namespace systems;

namespace {

using test::sizes;

sizes const image{.batches = 2,
                  .query_heads = 3,
                  .key_heads = 3,
                  .value_heads = 3,
                  .queries = 12 * 10,
                  .keys = 12 * 10,
                  .key_dimension = 20,
                  .value_dimension = 13};

template <class T>
testing::AssertionResult routes(test::inputs<T> const& in, image_regions const& regions, index_t top) {
  block_table table;
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    bi_level_routing_attention(q, k, v, o, table, regions, top, options...);
  });
  reference::options with;
  with.scale = 1 / std::sqrt(static_cast<double>(in.size.query_heads * in.size.key_dimension));
  with.visible = reference::routed_regions<T>(
      in.query.view(), in.key.view(), {regions.image[0], regions.image[1], regions.region[0], regions.region[1]}, top);
  return test::agrees(in, got, with);
}
template <class T>
testing::AssertionResult routes(std::array<index_t, 2> region, index_t top, unsigned seed) {
  return routes(test::random_inputs<T>(image, seed), {{12, 10}, region}, top);
}

TEST(BiLevelRoutingAttention, FollowsItsDefinition) {
  EXPECT_TRUE(routes<float>({4, 5}, 2, 1));
  EXPECT_TRUE(routes<float>({3, 2}, 4, 2));
  EXPECT_TRUE(routes<float>({1, 1}, 7, 3));
  EXPECT_TRUE(routes<float>({12, 10}, 9, 4));
  EXPECT_TRUE(routes<bfloat16>({4, 5}, 3, 5));
}

TEST(BiLevelRoutingAttention, TakesTheLowerOfEqualRegions) {
  EXPECT_TRUE(routes(test::whole_number_inputs<float>(
                         {.query_heads = 2, .key_heads = 2, .value_heads = 2, .queries = 64, .keys = 64}, 20),
                     {{8, 8}, {2, 1}}, 7));
}

TEST(BiLevelRoutingAttention, ShowsAValueToThoseRoutedToIt) {
  EXPECT_TRUE(routes(test::with_nan_values(test::random_inputs<float>(image, 21)), {{12, 10}, {3, 2}}, 4));
}

TEST(BiLevelRoutingAttention, IsDenseWhereAllRegionsAreChosen) {
  auto const in = test::random_inputs<float>(image, 6);
  block_table table;
  auto got = test::filled<float, 4>({2, 3, 120, 13}, 7), dense = got;
  bi_level_routing_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), table, {{12, 10}, {4, 5}}, 6,
                             scale(0.2));
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view(), scale(0.2));
  EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(5)));
}

TEST(BiLevelRoutingAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 12, .keys = 12}, 7);
  auto output = test::filled<float, 4>({1, 1, 12, 8}, 7);
  block_table table;
  auto const call = [&](image_regions const& regions, index_t top, auto const&... options) {
    bi_level_routing_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), table, regions, top,
                               options...);
  };
  test::expect_error("image_regions: expected a region that divides 4 (axis 0 of the image), got 3",
                     [&] { call({{4, 3}, {3, 3}}, 1); });
  test::expect_error("image_regions: expected tokens 12 (as query), got 16", [&] { call({{4, 4}, {2, 2}}, 1); });
  test::expect_error("top: expected at least 1 region, got 0", [&] { call({{4, 3}, {2, 3}}, 0); });
  test::expect_error("image_regions: expected a region that divides 0 (axis 1 of the image), got 536870912",
                     [&] { call({{4, 0}, {2, token_limit}}, 1); });
  test::expect_scale_error([&](scale const& factor) { call({{4, 3}, {2, 3}}, 1, factor); });
  EXPECT_EQ(table.grid().queries, 0) << "a refused call leaves the table as it was";
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

sizes const two_images{.batches = 2,
                       .query_heads = 4,
                       .key_heads = 2,
                       .value_heads = 2,
                       .queries = 8 * 12,
                       .keys = 4 * 15,
                       .key_dimension = 9,
                       .value_dimension = 13};

testing::AssertionResult progresses(test::inputs<float> const& in) {
  block_table table;
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    a2k_progressive_attention(q, k, v, o, table, {{8, 12}, {2, 3}}, {{4, 15}, {2, 3}}, options...);
  });
  reference::options with;
  with.scale = 1;
  with.visible = reference::likest_region<float>(in.query.view(), in.key.view(), {8, 12, 2, 3}, {4, 15, 2, 3});
  return test::agrees(in, got, with);
}

TEST(AllToKeyAttention, ProgressiveFollowsItsDefinition) {
  auto const in = test::random_inputs<float>(two_images, 8, 0.6);
  EXPECT_TRUE(progresses(in));
  EXPECT_TRUE(progresses(test::with_nan_values(in)));
}

TEST(AllToKeyAttention, ProgressiveTakesTheLowerOfEqualRegions) {
  sizes few = two_images;
  few.key_dimension = 1;
  EXPECT_TRUE(progresses(test::whole_number_inputs<float>(few, 20)));
}

TEST(AllToKeyAttention, DistributedFollowsItsDefinition) {
  auto const in = test::random_inputs<float>(two_images, 9, 0.6);
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    a2k_distributed_attention(q, k, v, o, {{4, 15}, {2, 3}}, {0.7, -0.2}, options...);
  });
  reference::regions_of_image const cut{4, 15, 2, 3};
  auto const keys = reference::gated_regions<float>(in.key.view(), in.key.view(), cut, 0.7, -0.2);
  auto const values = reference::gated_regions<float>(in.key.view(), in.value.view(), cut, 0.7, -0.2);
  std::vector<double> const queries(in.query.elements.begin(), in.query.elements.end());
  reference::options with;
  with.scale = 1;
  auto const expected = reference::softmax_attention<double>(
      {queries.data(), {2, 4, 96, 9}}, {keys.data(), {2, 2, 10, 9}}, {values.data(), {2, 2, 10, 13}}, with);
  EXPECT_TRUE(test::near(got.output.elements, expected.output, test::tolerance<float>(4)));
}

TEST(AllToKeyAttention, ProgressiveIsDenseWithOneRegion) {
  auto const in = test::random_inputs<float>({.queries = 20, .keys = 20}, 10);
  block_table table;
  auto got = test::filled<float, 4>({1, 1, 20, 8}, 7), dense = got;
  a2k_progressive_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), table, {{4, 5}, {4, 5}},
                            {{4, 5}, {4, 5}});
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view(), scale(1));
  EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(5)));
}

TEST(AllToKeyAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 12, .keys = 12}, 11);
  auto output = test::filled<float, 4>({1, 1, 12, 8}, 7);
  block_table table;
  test::expect_error("image_regions (key): expected extent of a region 2 (as query), got 4", [&] {
    a2k_progressive_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), table, {{4, 3}, {2, 3}},
                              {{4, 3}, {4, 3}});
  });
  test::expect_error("a2k_gate (beta): expected a finite number, got inf", [&] {
    a2k_distributed_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), {{4, 3}, {2, 3}},
                              {1, std::numeric_limits<double>::infinity()});
  });
  test::expect_scale_error([&](scale const& factor) {
    a2k_progressive_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), table, {{4, 3}, {2, 3}},
                              {{4, 3}, {2, 3}}, factor);
  });
  test::expect_scale_error([&](scale const& factor) {
    a2k_distributed_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), {{4, 3}, {2, 3}}, {1, 0},
                              factor);
  });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
