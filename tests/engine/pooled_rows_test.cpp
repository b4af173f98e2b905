// SPDX-License-Identifier: BSD-3-Clause
// Rows that stand for sets of tokens: means over blocks and over sets that overlap, of every element type.
#include <attend/engine/pooled_rows.hpp>

#include <span>

#include "support/compare.hpp"
#include "support/executors.hpp"
#include "support/random_tensor.hpp"

namespace attend {
using namespace extend;

namespace {

/// Tokens of some places: every third one from the place on, so that places overlap.
auto const every_third = [](index_t tokens) {
  return [=](index_t place, auto const& add) {
    for (index_t token = place; token < tokens; token += 3) add(token);
  };
};

template <class T, class Members>
void expect_means(test::tensor<T, 4> const& x, index_t places, index_t most, Members const& members) {
  using A = accumulation_t<T>;
  auto const view = x.view();
  std::vector<double> expected;
  for (index_t b = 0; b < x.extents[0]; ++b)
    for (index_t h = 0; h < x.extents[1]; ++h)
      for (index_t place = 0; place < places; ++place)
        for (index_t c = 0; c < x.extents[3]; ++c) {
          double sum = 0, count = 0;
          members(place, [&](index_t token) { sum += static_cast<double>(view(b, h, token, c)), ++count; });
          expected.push_back(sum / std::max(count, 1.0));
        }
  test::for_executors([&](auto&& executor, std::string const& name) {
    SCOPED_TRACE(name);
    scratch memory;
    auto const means = engine::token_means<T>(view, places, most, members, memory, executor);
    EXPECT_TRUE(test::near(std::span<T const>(means.data(), expected.size()), expected, test::tolerance<T>(4)));
    std::vector<A> wide(expected.size(), A(7));
    engine::mean_pools<T>(view, places, most, members, executor, [&](index_t b, index_t h, index_t place) {
      return wide.data() + ((b * x.extents[1] + h) * places + place) * x.extents[3];
    });
    EXPECT_TRUE(test::near(wide, expected, test::tolerance<A>(4)));
  });
}

TEST(PooledRows, AreMeansOfTheirTokens) {
  expect_means(test::normal<float, 4>({2, 3, 50, 9}, 1), 4, 16, engine::blocks_of(50, 16));
  expect_means(test::normal<float, 4>({1, 2, 20, 16}, 2), 5, 7, every_third(20));
  expect_means(test::normal<double, 4>({1, 2, 33, 5}, 3), 33, 1, engine::blocks_of(33, 1));
  expect_means(test::normal<half, 4>({1, 1, 64, 20}, 4), 1, 64, engine::blocks_of(64, 64));
  expect_means(test::normal<bfloat16, 4>({1, 1, 10, 33}, 5), 2, 8, engine::blocks_of(10, 8));
}

TEST(PooledRows, BlocksHaveTokensThatFollowEachOther) {
  std::vector<index_t> tokens;
  auto const members = engine::blocks_of(10, 4);
  members(1, [&](index_t token) { tokens.push_back(token); });
  members(2, [&](index_t token) { tokens.push_back(token); });
  EXPECT_EQ(tokens, (std::vector<index_t>{4, 5, 6, 7, 8, 9}));
}

TEST(PooledRows, ManyTasks) {
  expect_means(test::normal<float, 4>({1, 4, 3000, 64}, 6), 300, 10, engine::blocks_of(3000, 10));
}

TEST(PooledRows, PlacesWithoutTokensAreZero) {
  expect_means(test::normal<float, 4>({1, 1, 4, 8}, 7), 3, 4, [](index_t place, auto const& add) {
    if (place == 1) add(2);
  });
}

TEST(PooledRows, NothingOfNothing) {
  scratch memory;
  serial alone;
  auto const none = test::normal<float, 4>({1, 2, 5, 0}, 8);
  EXPECT_TRUE(engine::token_means<float>(none.view(), 2, 3, engine::blocks_of(5, 3), memory, alone).empty());
  EXPECT_TRUE(engine::token_means<float>(test::normal<float, 4>({1, 2, 0, 3}, 8).view(), 0, 3, engine::blocks_of(0, 3),
                                         memory, alone)
                  .empty());
}

}  // namespace
}  // namespace attend
