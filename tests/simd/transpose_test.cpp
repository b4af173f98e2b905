// SPDX-License-Identifier: BSD-3-Clause
// Every element of a square of registers goes to its mirror place, with its bits unchanged.
#include <attend/simd/transpose.hpp>

#include <gtest/gtest.h>

namespace attend::simd {
namespace {

template <class T>
class Transpose : public testing::Test {};
using Lanes = testing::Types<float, double, std::int32_t, std::int64_t>;
TYPED_TEST_SUITE(Transpose, Lanes);

TYPED_TEST(Transpose, MirrorsTheSquare) {
  using T = TypeParam;
  constexpr int size = width<T>;
  T numbers[size][size], transposed[size][size];
  vector<T> rows[size];
  for (int i = 0; i < size; ++i) {
    for (int j = 0; j < size; ++j) numbers[i][j] = T(1 + i * size + j);
    rows[i] = vector<T>::load_unaligned(numbers[i]);
  }
  transpose<T>(rows);
  for (int i = 0; i < size; ++i) rows[i].store_unaligned(transposed[i]);
  for (int i = 0; i < size; ++i)
    for (int j = 0; j < size; ++j) ASSERT_EQ(transposed[i][j], numbers[j][i]) << i << ' ' << j;
}

TYPED_TEST(Transpose, TwiceIsNothing) {
  using T = TypeParam;
  constexpr int size = width<T>;
  vector<T> rows[size];
  T before[size], after[size];
  for (int i = 0; i < size; ++i) {
    for (int j = 0; j < size; ++j) before[j] = T(i * i + 3 * j);
    rows[i] = vector<T>::load_unaligned(before);
  }
  transpose<T>(rows);
  transpose<T>(rows);
  for (int i = 0; i < size; ++i) {
    rows[i].store_unaligned(after);
    for (int j = 0; j < size; ++j) ASSERT_EQ(after[j], T(i * i + 3 * j)) << i << ' ' << j;
  }
}

// Small whole numbers: sums in any order are the same.
TYPED_TEST(Transpose, SumsRows) {
  using T = TypeParam;
  constexpr int size = width<T>;
  T row[size], expected[size], sums[size];
  vector<T> rows[size];
  for (int i = 0; i < size; ++i) {
    expected[i] = 0;
    for (int j = 0; j < size; ++j) {
      row[j] = T((i * 31 + j * j * 7) % 50 - 20);
      expected[i] = T(expected[i] + row[j]);
    }
    rows[i] = vector<T>::load_unaligned(row);
  }
  sum_rows<T>(rows).store_unaligned(sums);
  for (int i = 0; i < size; ++i) EXPECT_EQ(sums[i], expected[i]) << i;
}

TEST(TransposeOfNaN, MovesBitsNotNumbers) {
  constexpr int size = width<float>;
  vector<float> rows[size];
  std::uint32_t const signalling = 0x7f800001u;
  float row[size] = {};
  for (int i = 0; i < size; ++i) rows[i] = vector<float>(0.f);
  row[size - 1] = std::bit_cast<float>(signalling);
  rows[0] = vector<float>::load_unaligned(row);
  transpose<float>(rows);
  rows[size - 1].store_unaligned(row);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(row[0]), signalling);
}

}  // namespace
}  // namespace attend::simd
