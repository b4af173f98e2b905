// SPDX-License-Identifier: BSD-3-Clause
// Products of pairs are those of their integers, and rows come out of the cursors in the lanes that their columns say.
#include <attend/simd/integer_pairs.hpp>

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace attend::simd {
using namespace extend;

namespace {

constexpr int lanes = width<float>;

TEST(IntegerPairs, AreMultipliedAndAddedUp) {
  std::mt19937 engine(1);
  std::uniform_int_distribution<int> large(-32767, 32767), small(-128, 127), sum(-1000, 1000);
  for (int trial = 0; trial < 100; ++trial) {
    pair_vector a, b;
    pair_sums sums;
    for (int i = 0; i < 2 * lanes; ++i) {
      a[i] = static_cast<std::int16_t>(large(engine));
      b[i] = static_cast<std::int16_t>(small(engine));
    }
    for (int i = 0; i < lanes; ++i) sums[i] = sum(engine);
    pair_sums const got = add_pairs(a, b, sums);
    for (int i = 0; i < lanes; ++i) ASSERT_EQ(got[i], sums[i] + a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1]) << i;
    float floats[lanes];
    to_floats(got).store_unaligned(floats);
    for (int i = 0; i < lanes; ++i) ASSERT_EQ(floats[i], static_cast<float>(got[i]));
  }
}

template <class T>
struct row_of_integers {
  std::vector<T> stored;
  std::vector<int> meant;

  row_of_integers(index_t count, unsigned seed) {
    std::mt19937 engine(seed);
    std::uniform_int_distribution<int> bytes(-128, 127), numbers(0, 15);
    for (index_t c = 0; c < count; c += elements_in<T>) {
      if constexpr (std::same_as<T, caches::int4_pair>) {
        int const low = numbers(engine), high = numbers(engine);
        stored.push_back({static_cast<std::uint8_t>(low | high << 4)});
        meant.insert(meant.end(), {low - 8, high - 8});
      } else {
        stored.push_back(static_cast<T>(bytes(engine)));
        meant.push_back(stored.back());
      }
    }
  }
  int operator[](index_t column) const { return meant[static_cast<std::size_t>(column)]; }
};

template <class T>
class StoredPairs : public testing::Test {};
using Integers = testing::Types<std::int8_t, caches::int4_pair>;
TYPED_TEST_SUITE(StoredPairs, Integers);

TYPED_TEST(StoredPairs, OfARowAreNeighbours) {
  constexpr index_t groups = 3, vectors = groups * pair_group<TypeParam>;
  row_of_integers<TypeParam> const row(vectors * 2 * lanes, 1);
  for (index_t v = 0; v < vectors;) {
    pair_cursor<TypeParam> cursor(row.stored.data(), v);
    for (index_t end = v + pair_group<TypeParam>; v < end; ++v) {
      pair_vector const got = cursor.next();
      for (int lane = 0; lane < 2 * lanes; ++lane)
        ASSERT_EQ(got[lane], row[pair_column<TypeParam>(v, lane)]) << v << ' ' << lane;
    }
  }
}

TYPED_TEST(StoredPairs, OfTwoRowsAreOfAColumn) {
  constexpr int group = row_group<TypeParam, true>;
  row_of_integers<TypeParam> const one(group_elements<TypeParam, true>, 2), other(group_elements<TypeParam, true>, 3);
  for (int place = 0; place < group; ++place) {
    pairs_cursor<TypeParam> cursor(one.stored.data(), other.stored.data(), place);
    for (int v = place; v < group; ++v) {
      pair_vector const got = cursor.next();
      for (int lane = 0; lane < lanes; ++lane) {
        index_t const column = stored_column<TypeParam, true>(v, lane);
        ASSERT_EQ(got[2 * lane], one[column]) << place << ' ' << v << ' ' << lane;
        ASSERT_EQ(got[2 * lane + 1], other[column]) << place << ' ' << v << ' ' << lane;
      }
    }
  }
}

}  // namespace
}  // namespace attend::simd
