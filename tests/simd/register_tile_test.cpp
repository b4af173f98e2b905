// SPDX-License-Identifier: BSD-3-Clause
// Register tiles against plain loops, over whole numbers, so that any order of summation gives the same bits.
#include <attend/simd/register_tile.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>
#include <xsimd/memory/xsimd_aligned_allocator.hpp>

namespace attend::simd {
namespace {

template <class T>
using aligned = std::vector<T, xsimd::aligned_allocator<T, 64>>;

template <class T, int Vectors>
struct shape {
  using element = T;
  static constexpr int vectors = Vectors;
};

template <class Shape>
class RegisterTile : public testing::Test {
 protected:
  using element = typename Shape::element;

  aligned<element> numbers(index_t count) {
    std::uniform_int_distribution<int> distribution(-9, 9);
    aligned<element> result;
    for (index_t i = 0; i < count; ++i) result.push_back(static_cast<element>(distribution(engine_)));
    return result;
  }

 private:
  std::mt19937 engine_{1};
};
using Shapes = testing::Types<shape<float, 1>, shape<float, 2>, shape<float, 3>, shape<double, 1>, shape<double, 2>,
                              shape<double, 3>>;
TYPED_TEST_SUITE(RegisterTile, Shapes);

TYPED_TEST(RegisterTile, ClearsStoresAndAdds) {
  using T = typename TypeParam::element;
  constexpr int vectors = TypeParam::vectors;
  constexpr index_t lanes = vectors * width<T>, size = register_rows * lanes;
  register_tile<T, vectors> tile;
  tile.clear();
  aligned<T> stored(size + lanes, T(-1));
  tile.store(stored.data());
  for (index_t i = 0; i < size + lanes; ++i) ASSERT_EQ(stored[static_cast<std::size_t>(i)], i < size ? 0 : -1) << i;

  aligned<T> const numbers = this->numbers(size);
  for (int i = 0; i < register_rows; ++i)
    for (int v = 0; v < vectors; ++v)
      tile.sum[i][v] = load(&numbers[static_cast<std::size_t>(i * lanes + v * width<T>)]);
  tile.store(stored.data());
  for (index_t i = 0; i < size + lanes; ++i)
    ASSERT_EQ(stored[static_cast<std::size_t>(i)], i < size ? numbers[static_cast<std::size_t>(i)] : -1) << i;
  tile.add_to(stored.data());
  for (index_t i = 0; i < size + lanes; ++i)
    ASSERT_EQ(stored[static_cast<std::size_t>(i)], i < size ? 2 * numbers[static_cast<std::size_t>(i)] : -1) << i;
}

TYPED_TEST(RegisterTile, MultipliesAsTheDefinitionSays) {
  using T = typename TypeParam::element;
  constexpr int vectors = TypeParam::vectors;
  constexpr index_t lanes = vectors * width<T>, size = register_rows * lanes;
  for (index_t depth : {0, 1, 2, 7, 64})
    for (bool rows_are_contiguous : {false, true})
      for (index_t padding : {0, 3}) {
        SCOPED_TRACE(testing::Message() << "depth " << depth << (rows_are_contiguous ? ", rows" : ", depth")
                                        << " contiguous, padding " << padding);
        index_t const stride = (rows_are_contiguous ? register_rows : depth) + padding;
        aligned<T> const a = this->numbers(stride * std::max<index_t>(depth, register_rows)),
                         b = this->numbers(depth * lanes);
        aligned<T> expected = this->numbers(size), got(static_cast<std::size_t>(size));
        register_tile<T, vectors> tile;
        for (int i = 0; i < register_rows; ++i)
          for (int v = 0; v < vectors; ++v)
            tile.sum[i][v] = load(&expected[static_cast<std::size_t>(i * lanes + v * width<T>)]);
        for (index_t i = 0; i < register_rows; ++i)
          for (index_t lane = 0; lane < lanes; ++lane)
            for (index_t k = 0; k < depth; ++k)
              expected[static_cast<std::size_t>(i * lanes + lane)] +=
                  a[static_cast<std::size_t>(rows_are_contiguous ? k * stride + i : i * stride + k)] *
                  b[static_cast<std::size_t>(k * lanes + lane)];
        if (rows_are_contiguous)
          tile.template multiply_add<true>(a.data(), stride, b.data(), depth);
        else
          tile.template multiply_add<false>(a.data(), stride, b.data(), depth);
        tile.store(got.data());
        for (index_t i = 0; i < size; ++i)
          ASSERT_EQ(got[static_cast<std::size_t>(i)], expected[static_cast<std::size_t>(i)])
              << "row " << i / lanes << " lane " << i % lanes;
      }
}

TYPED_TEST(RegisterTile, WalksOverRowsApart) {
  using T = typename TypeParam::element;
  constexpr int vectors = TypeParam::vectors;
  constexpr index_t lanes = vectors * width<T>, apart = lanes + 2 * width<T>, depth = 9;
  aligned<T> const a = this->numbers(register_rows * depth), b = this->numbers(depth * apart);
  aligned<T> close;
  for (index_t k = 0; k < depth; ++k) close.insert(close.end(), b.begin() + k * apart, b.begin() + k * apart + lanes);
  register_tile<T, vectors> expected, tile;
  expected.clear();
  expected.template multiply_add<false>(a.data(), depth, close.data(), depth);
  tile.clear();
  tile.template multiply_add<false, true>(a.data(), depth, b.data(), depth, apart, nullptr);
  aligned<T> stored(register_rows * apart, T(-1)), close_stored(register_rows * lanes);
  expected.store(close_stored.data());
  tile.store(stored.data(), apart);
  for (index_t i = 0; i < register_rows; ++i)
    for (index_t lane = 0; lane < apart; ++lane)
      ASSERT_EQ(stored[static_cast<std::size_t>(i * apart + lane)],
                lane < lanes ? close_stored[static_cast<std::size_t>(i * lanes + lane)] : -1);
}

// What stands above the triangle is not read, and a row of b reaches no sum before its own: neither may be a number.
TYPED_TEST(RegisterTile, MultipliesALowerTriangle) {
  using T = typename TypeParam::element;
  constexpr int vectors = TypeParam::vectors;
  constexpr index_t lanes = vectors * width<T>, stride = register_rows + 3;
  aligned<T> a = this->numbers(register_rows * stride), b = this->numbers(register_rows * lanes);
  for (index_t i = 0; i < register_rows; ++i)
    for (index_t k = i + 1; k < stride; ++k)
      a[static_cast<std::size_t>(i * stride + k)] = std::numeric_limits<T>::quiet_NaN();
  for (index_t lane = 0; lane < lanes; ++lane)
    b[static_cast<std::size_t>((register_rows - 1) * lanes + lane)] = std::numeric_limits<T>::quiet_NaN();
  register_tile<T, vectors> tile;
  tile.clear();
  tile.multiply_add_lower(a.data(), stride, b.data());
  aligned<T> got(register_rows * lanes);
  tile.store(got.data());
  for (index_t i = 0; i < register_rows; ++i)
    for (index_t lane = 0; lane < lanes; ++lane) {
      T expected = 0;
      for (index_t k = 0; k <= i; ++k)
        expected += a[static_cast<std::size_t>(i * stride + k)] * b[static_cast<std::size_t>(k * lanes + lane)];
      T const sum = got[static_cast<std::size_t>(i * lanes + lane)];
      ASSERT_TRUE(i + 1 < register_rows ? sum == expected : std::isnan(sum)) << "row " << i << " lane " << lane;
    }
}

TEST(TileWidths, CoverEachVectorOnce) {
  for (int count = 0; count < 20; ++count) {
    int next = 0, singles = 0;
    for_tile_widths(count, [&]<int Vectors>(int first) {
      EXPECT_EQ(first, next);
      next += Vectors;
      singles += Vectors == 1;
    });
    EXPECT_EQ(next, count);
    EXPECT_EQ(singles, count == 1 ? 1 : 0) << count;
  }
}

TEST(RegisterTileSize, FitsTheRegisters) {
  // Accumulators, the loaded operands and one broadcast.
  constexpr int used = register_rows * register_vectors + register_vectors + 1;
#if defined(__AVX512F__) || defined(__aarch64__)
  EXPECT_LE(used, 32);
#else
  EXPECT_LE(used, 16);
#endif
  EXPECT_EQ(tile_lanes<float>, register_vectors * width<float>);
  EXPECT_GE(register_rows * register_vectors, 8) << "two ports with a latency of four";
}

}  // namespace
}  // namespace attend::simd
