// Attention between regions of images, BiFormer's and all-to-key: against the definitions, and dense where all regions
// are one.
#include <attend/reference/image_regions.hpp>
#include <attend/variant/all_to_key_attention.hpp>
#include <attend/variant/bi_level_routing_attention.hpp>

#include "support/selected.hpp"

namespace attend {
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
testing::AssertionResult routes(std::array<index_t, 2> region, index_t top, unsigned seed) {
  auto const in = test::random_inputs<T>(image, seed);
  block_table table;
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    bi_level_routing_attention(q, k, v, o, table, {{12, 10}, region}, top, options...);
  });
  reference::options with;
  with.scale = 1 / std::sqrt(60.0);
  with.visible = reference::routed_regions<T>(in.query.view(), in.key.view(), {12, 10, region[0], region[1]}, top);
  return test::agrees(in, got, with);
}

TEST(BiLevelRoutingAttention, FollowsItsDefinition) {
  EXPECT_TRUE(routes<float>({4, 5}, 2, 1));
  EXPECT_TRUE(routes<float>({3, 2}, 4, 2));
  EXPECT_TRUE(routes<float>({1, 1}, 7, 3));
  EXPECT_TRUE(routes<float>({12, 10}, 9, 4));
  EXPECT_TRUE(routes<bfloat16>({4, 5}, 3, 5));
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
  test::expect_error("image_regions: expected a region that divides 4 (axis 0 of the image), got 3", [&] {
    call({{4, 3}, {3, 3}}, 1);
  });
  test::expect_error("image_regions: expected tokens 12 (as query), got 16", [&] { call({{4, 4}, {2, 2}}, 1); });
  test::expect_error("top: expected at least 1 region, got 0", [&] { call({{4, 3}, {2, 3}}, 0); });
  test::expect_scale_error([&](scale const& factor) { call({{4, 3}, {2, 3}}, 1, factor); });
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

TEST(AllToKeyAttention, ProgressiveFollowsItsDefinition) {
  auto const in = test::random_inputs<float>(two_images, 8, 0.6);
  block_table table;
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    progressive_attention(q, k, v, o, table, {{8, 12}, {2, 3}}, {{4, 15}, {2, 3}}, options...);
  });
  reference::options with;
  with.scale = 1;
  with.visible = reference::likest_region<float>(in.query.view(), in.key.view(), {8, 12, 2, 3}, {4, 15, 2, 3});
  EXPECT_TRUE(test::agrees(in, got, with));
}

TEST(AllToKeyAttention, DistributedFollowsItsDefinition) {
  auto const in = test::random_inputs<float>(two_images, 9, 0.6);
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    distributed_attention(q, k, v, o, {{4, 15}, {2, 3}}, {0.7, -0.2}, options...);
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
  progressive_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), table, {{4, 5}, {4, 5}},
                        {{4, 5}, {4, 5}});
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view(), scale(1));
  EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(5)));
}

TEST(AllToKeyAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 12, .keys = 12}, 11);
  auto output = test::filled<float, 4>({1, 1, 12, 8}, 7);
  block_table table;
  test::expect_error("image_regions (key): expected extent of a region 2 (as query), got 4", [&] {
    progressive_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), table, {{4, 3}, {2, 3}},
                          {{4, 3}, {4, 3}});
  });
  test::expect_error("region_gate (beta): expected a finite number, got inf", [&] {
    distributed_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), {{4, 3}, {2, 3}},
                          {1, std::numeric_limits<double>::infinity()});
  });
  test::expect_scale_error([&](scale const& factor) {
    progressive_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), table, {{4, 3}, {2, 3}},
                          {{4, 3}, {2, 3}}, factor);
  });
  test::expect_scale_error([&](scale const& factor) {
    distributed_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), {{4, 3}, {2, 3}}, {1, 0},
                          factor);
  });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
