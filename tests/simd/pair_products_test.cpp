// SPDX-License-Identifier: BSD-3-Clause
// Products of pairs: the emulated units against sums in double, and the matrix unit or instructions, where there are
// some, against them, bit for bit; rounding to pairs; the transposition of rows of pairs.
#include <attend/core/arithmetic_mode.hpp>
#include <attend/simd/pair_transpose.hpp>

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <random>
#include <vector>

namespace attend {
namespace {

using simd::pair_bits;

struct tiles {
  static constexpr index_t rows = 2 * simd::pair_tile, columns = 2 * simd::pair_columns, depth = 3 * simd::pair_depth;
  std::vector<bfloat16> a, b;                             // [rows][depth], [depth / 2][columns][2]
  std::vector<float, Eigen::aligned_allocator<float>> c;  // [rows][columns]

  explicit tiles(unsigned seed) : a(rows * depth), b(depth * columns), c(rows * columns) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    for (bfloat16& x : a) x = bfloat16(normal(generator));
    for (bfloat16& x : b) x = bfloat16(normal(generator));
    for (float& x : c) x = normal(generator);
  }

  double b_of(index_t k, index_t column) const {
    return static_cast<float>(b[static_cast<std::size_t>((k / 2 * columns + column) * 2 + k % 2)]);
  }

  index_t tiles_of_a = 0;  // how often there was time for something else

  /// The products with the first `Columns` vectors of columns.
  template <int Columns = 2, class Unit>
  void multiply(Unit& unit, bool fresh) {
    constexpr index_t size = sizeof(bfloat16);
    std::vector<std::uint16_t> in_order(a.size());
    for (index_t row = 0; row < rows; ++row)
      simd::copy_row<Unit>(a.data() + row * depth, depth, in_order.data() + row * depth);
    std::vector<pair_bits> pairs(static_cast<std::size_t>(depth / 2 * columns));
    for (index_t pair = 0; pair < depth / 2; ++pair)
      for (index_t column = 0; column < columns; ++column) {
        auto const half = [&](index_t which) {
          index_t const k = Unit::order.number(pair, which);
          return pair_bits{
              std::bit_cast<std::uint16_t>(b[static_cast<std::size_t>((k / 2 * columns + column) * 2 + k % 2)])};
        };
        pairs[static_cast<std::size_t>(Unit::order.place(pair, column, columns))] = half(0) | half(1) << 16;
      }
    simd::pair_matrix const of_a{reinterpret_cast<char const*>(in_order.data()), depth * size,
                                 simd::pair_tile * depth * size, simd::pair_depth * size};
    simd::multiply_tiles<2, Columns>(unit, {of_a, pairs.data(), c.data(), columns, columns, depth, fresh},
                                     [&] { ++tiles_of_a; });
  }
};

template <class Unit>
void expect_sums() {
  for (bool const fresh : {true, false}) {
    tiles t(1), before(1);
    Unit unit;
    t.multiply(unit, fresh);
    EXPECT_EQ(t.tiles_of_a, t.rows / simd::pair_tile * (t.depth / simd::pair_depth));
    for (index_t row = 0; row < t.rows; ++row)
      for (index_t column = 0; column < t.columns; ++column) {
        double sum = 0, size = 0;
        for (index_t k = 0; k < t.depth; ++k) {
          double const term =
              static_cast<double>(static_cast<float>(t.a[static_cast<std::size_t>(row * t.depth + k)])) *
              t.b_of(k, column);
          sum += term;
          size += std::abs(term);
        }
        auto const at = static_cast<std::size_t>(row * t.columns + column);
        if (!fresh) sum += static_cast<double>(before.c[at]);
        // Products of two bfloat16 are exact; each of the depth + 2 additions rounds at most what is summed up so far.
        // BFMMLA rounds twice as much, and has as many sums of pairs as of these.
        ASSERT_NEAR(t.c[at], sum, (t.depth + 3) * 0x1p-24 * (size + std::abs(static_cast<double>(before.c[at]))));
      }
  }
}

TEST(PairProducts, AreSumsOverBothElementsOfAPair) {
  expect_sums<simd::emulated_unit>();
  expect_sums<simd::emulated_fours_unit>();
}

TEST(PairProducts, OfTheMatrixUnitHaveTheBitsOfTheEmulatedOne) {
#if defined(__AMX_BF16__)
  if (!detail::machine::detected().matrix_unit) GTEST_SKIP() << "this machine has no matrix unit";
  detail::arithmetic_mode const mode;
  for (unsigned seed = 0; seed < 20; ++seed) {
    tiles one(seed), other(seed);
    simd::emulated_unit emulated;
    one.multiply(emulated, seed % 2 == 0);
    simd::amx_unit unit;
    other.multiply(unit, seed % 2 == 0);
    ASSERT_EQ(one.c, other.c) << "seed " << seed;
  }
#else
  GTEST_SKIP() << "not compiled for a matrix unit";
#endif
}

template <int Columns>
void expect_same_bits_by_instructions() {
#if defined(__AVX512BF16__) || defined(ATTEND_NEON_BFLOAT16)
#if defined(ATTEND_NEON_BFLOAT16)
  using emulation = simd::emulated_fours_unit;
#else
  using emulation = simd::emulated_unit;
#endif
  detail::arithmetic_mode const mode;
  for (unsigned seed = 0; seed < 20; ++seed) {
    tiles one(seed), other(seed);
    emulation emulated;
    one.multiply<Columns>(emulated, seed % 2 == 0);
    simd::vector_unit unit;
    other.multiply<Columns>(unit, seed % 2 == 0);
    ASSERT_EQ(one.c, other.c) << "seed " << seed << ", " << Columns << " columns";
    ASSERT_EQ(one.tiles_of_a, other.tiles_of_a);
  }
#else
  GTEST_SKIP() << "not compiled for AVX512-BF16 or Arm's BFMMLA";
#endif
}

TEST(PairProducts, OfInstructionsHaveTheBitsOfTheEmulatedUnit) {
  expect_same_bits_by_instructions<1>();
  expect_same_bits_by_instructions<2>();
}

TEST(PairProducts, HaveEachNumberInOnePair) {
  for (simd::pair_order const order :
       {simd::pair_order{}, simd::pair_order{.by_parity = true}, simd::pair_order{.in_fours = true}})
    for (index_t number = 0; number < simd::pair_depth; ++number) {
      EXPECT_EQ(order.number(order.pair_of(number), order.half_of(number)), number);
      EXPECT_EQ(order.pair_of(number) / (order.group() / 2), number / order.group());
    }
}

TEST(PairProducts, FillRowsWithZeros) {
  std::uint16_t const from[70] = {1, 2, 3, 4, 5};
  for (index_t const count : {0, 1, 31, 32, 33, 70}) {
    std::vector<std::uint16_t> to(static_cast<std::size_t>((count + 31) / 32 * 32), 7);
    simd::copy_row<simd::emulated_unit>(from, count, to.data());
    for (std::size_t i = 0; i < to.size(); ++i)
      ASSERT_EQ(to[i], i < 5 && i < static_cast<std::size_t>(count) ? i + 1 : 0) << count;
  }
}

TEST(PairProducts, RoundWeightsToTheNearest) {
  constexpr int width = simd::width<float>;
  std::mt19937 bits(2);
  for (int round = 0; round < 2000; ++round) {
    alignas(64) float first[width], second[width];
    alignas(64) pair_bits pairs[width];
    for (int i = 0; i < width; ++i) {
      // Any exponent that no mode flushes, and ties among them.
      auto const any = [&] {
        std::uint32_t const x = bits();
        std::uint32_t const exponent = 1 + x % 253,
                            fraction = round % 2 ? bits() & 0x7fffffu : (bits() & 0x7fu) << 16 | 0x8000u;
        return std::bit_cast<float>((x & 0x80000000u) | exponent << 23 | fraction);
      };
      first[i] = any();
      second[i] = any();
    }
    simd::store_pairs(pairs, simd::load(first), simd::load(second));
    for (int i = 0; i < width; ++i) {
      ASSERT_EQ(pairs[i] & 0xffffu, std::bit_cast<std::uint16_t>(bfloat16(first[i]))) << first[i];
      ASSERT_EQ(pairs[i] >> 16, std::bit_cast<std::uint16_t>(bfloat16(second[i]))) << second[i];
    }
  }
}

TEST(PairProducts, RoundNaNToNaN) {
  constexpr int width = simd::width<float>;
  for (std::uint32_t const nan : {0x7fc00000u, 0x7fffffffu, 0xffffffffu, 0x7f800001u}) {
    alignas(64) pair_bits pairs[width];
    simd::vector<float> const x(std::bit_cast<float>(nan));
    simd::store_pairs(pairs, x, x);
    EXPECT_GT(pairs[0] & 0x7fffu, 0x7f80u);
    EXPECT_GT(pairs[width - 1] >> 16 & 0x7fffu, 0x7f80u);
  }
}

TEST(PairProducts, TransposeAndInterleaveRows) {
  constexpr index_t lanes = 2 * simd::pair_tile, columns = simd::pair_tile;
  std::vector<pair_bits> rows(lanes * columns);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<pair_bits>(i) * 0x10001u + 0x7f80u;
  void const* row[lanes];
  for (index_t lane = 0; lane < lanes; ++lane) row[lane] = rows.data() + lane * columns;
  alignas(64) pair_bits to[columns * lanes];
  simd::transpose_pairs(row, lanes, columns, to, lanes);
  for (index_t lane = 0; lane < lanes; ++lane)
    for (index_t column = 0; column < columns; ++column)
      ASSERT_EQ(to[column * lanes + lane], rows[static_cast<std::size_t>(lane * columns + column)]);

  std::uint16_t first[16], second[16];
  for (std::uint16_t i = 0; i < 16; ++i) first[i] = i, second[i] = static_cast<std::uint16_t>(100 + i);
  simd::interleave_pairs(first, second, to);
  for (std::uint32_t i = 0; i < 16; ++i) ASSERT_EQ(to[i], i | (100 + i) << 16);
}

}  // namespace
}  // namespace attend
