// SPDX-License-Identifier: BSD-3-Clause
// A stored row comes out of its cursor as the numbers that it stands for, each in the lane that stored_column says.
#include <attend/simd/stored_row.hpp>

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace attend::simd {
using namespace extend;

namespace {

template <class T>
struct row_of_numbers {
  std::vector<T> stored;
  std::vector<double> meant;

  explicit row_of_numbers(index_t count) {
    std::mt19937 engine(1);
    std::uniform_int_distribution<int> bytes(-127, 127), nibbles(1, 15);
    for (index_t c = 0; c < count; c += elements_in<T>) {
      if constexpr (std::same_as<T, caches::int4_pair>) {
        int const low = nibbles(engine), high = nibbles(engine);
        stored.push_back({static_cast<std::uint8_t>(low | high << 4)});
        meant.insert(meant.end(), {low - 8.0, high - 8.0});
      } else {
        stored.push_back(static_cast<T>(bytes(engine)));
        meant.push_back(static_cast<double>(stored.back()));
      }
    }
  }
};

template <class T>
class StoredRow : public testing::Test {};
using Elements = testing::Types<float, double, half, bfloat16, std::int8_t, caches::int4_pair>;
TYPED_TEST_SUITE(StoredRow, Elements);

TYPED_TEST(StoredRow, IsUnpackedInItsOrder) {
  using A = storage_accumulation_t<TypeParam>;
  constexpr index_t groups = 3, vectors = groups * row_group<TypeParam>;
  row_of_numbers<TypeParam> const row(groups * group_elements<TypeParam>);
  // From any vector on, to the end of its group.
  for (index_t from = 0; from < vectors; ++from) {
    row_cursor<TypeParam> cursor(row.stored.data(), from);
    for (index_t v = from; v < (from / row_group<TypeParam> + 1) * row_group<TypeParam>; ++v) {
      A lanes[width<A>];
      cursor.next().store_unaligned(lanes);
      for (index_t lane = 0; lane < width<A>; ++lane)
        ASSERT_EQ(lanes[lane], row.meant[static_cast<std::size_t>(stored_column<TypeParam>(v, lane))])
            << from << ' ' << v << ' ' << lane;
    }
  }
}

TYPED_TEST(StoredRow, HasEveryColumnOnce) {
  constexpr index_t vectors = 2 * row_group<TypeParam>;
  constexpr int lanes = width<storage_accumulation_t<TypeParam>>;
  std::set<index_t> columns;
  for (index_t v = 0; v < vectors; ++v)
    for (index_t lane = 0; lane < lanes; ++lane) columns.insert(stored_column<TypeParam>(v, lane));
  EXPECT_EQ(columns.size(), static_cast<std::size_t>(vectors * lanes));
  EXPECT_EQ(*columns.rbegin(), vectors * lanes - 1);
}

}  // namespace
}  // namespace attend::simd
