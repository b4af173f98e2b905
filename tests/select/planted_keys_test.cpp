// SPDX-License-Identifier: BSD-3-Clause
// The generator that selectors are tested and compared with: what it says of its needles is so.
#include "support/planted_keys.hpp"

#include <gtest/gtest.h>

#include <set>

#include "support/compare.hpp"

namespace attend {
using namespace extend;

namespace {

test::planted_shape const shape{.query_heads = 6,
                                .key_heads = 2,
                                .queries = 40,
                                .keys = 300,
                                .key_dimension = 32,
                                .value_dimension = 5,
                                .needle_period = 4};

double logit(test::planted_keys const& all, index_t head, index_t query, index_t key) {
  double sum = 0;
  index_t const key_head = head * shape.key_heads / shape.query_heads;
  for (index_t c = 0; c < shape.key_dimension; ++c)
    sum += static_cast<double>(all.query.view()(0, head, query, c)) * all.key.view()(0, key_head, key, c);
  return sum / std::sqrt(static_cast<double>(shape.key_dimension));
}

TEST(PlantedKeys, StandOutForEveryHeadThatSharesThem) {
  auto const all = test::plant_keys(shape, 1);
  double const wanted = std::log(static_cast<double>(shape.keys)) + shape.margin;
  ASSERT_EQ(all.needles.size(), 2u * 10u);
  for (test::needle const& at : all.needles) {
    double least = infinity<double>, magnitude = 0;
    for (index_t head = 3 * at.key_head; head < 3 * at.key_head + 3; ++head) {
      least = std::min(least, logit(all, head, at.query, at.key));
      double terms = 0;
      for (index_t c = 0; c < shape.key_dimension; ++c)
        terms += std::abs(static_cast<double>(all.query.view()(0, head, at.query, c)) *
                          all.key.view()(0, at.key_head, at.key, c));
      magnitude = std::max(magnitude, terms / std::sqrt(static_cast<double>(shape.key_dimension)));
    }
    // The step along the direction, its product with it, and the sum with what the key was are rounded to float.
    EXPECT_NEAR(least, wanted, 3 * test::unit_roundoff<float>() * magnitude);
  }
}

TEST(PlantedKeys, StandBeforeTheirQueriesAndApart) {
  auto const all = test::plant_keys(shape, 2);
  std::set<std::pair<index_t, index_t>> places;
  for (test::needle const& at : all.needles) {
    EXPECT_EQ(at.query % shape.needle_period, shape.needle_period - 1);
    EXPECT_LE(at.key, shape.keys - shape.queries + at.query);
    EXPECT_TRUE(places.insert({at.key_head, at.key}).second);
  }
}

TEST(PlantedKeys, AreFewerWhereThereIsNoRoom) {
  test::planted_shape tight = shape;
  tight.queries = tight.keys = 3;
  tight.needle_period = 1;
  EXPECT_EQ(test::plant_keys(tight, 1).needles.size(), 2u * 3u);
  tight.queries = tight.keys = 0;
  EXPECT_TRUE(test::plant_keys(tight, 1).needles.empty());
}

TEST(PlantedKeys, FollowTheSeed) {
  auto const first = test::plant_keys(shape, 3), again = test::plant_keys(shape, 3), other = test::plant_keys(shape, 4);
  EXPECT_EQ(first.key.elements, again.key.elements);
  EXPECT_EQ(first.query.elements, again.query.elements);
  EXPECT_NE(first.key.elements, other.key.elements);
}

}  // namespace
}  // namespace attend
