// SPDX-License-Identifier: BSD-3-Clause
// Products with stored integers as products of integers: the rounded factors are within half a step, and what is summed
// up from them is exact but for the rounding of floats.
#include <attend/engine/softmax/split_integers.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace attend::engine {
namespace {

constexpr int lanes = simd::width<float>;

/// The integer of a weight, as the pairs have it.
int integer_of(integer_weights const& weights, int rows, index_t key, int row) {
  std::int32_t const pair = weights.pair[key < weights.half ? key * rows + row : (key - weights.half) * rows + row];
  return key < weights.half ? static_cast<std::int16_t>(pair & 0xffff) : pair >> 16;
}

template <int Rows = lanes>
void expect_near_integers(index_t keys) {
  SCOPED_TRACE(testing::Message() << Rows << " rows, " << keys << " keys");
  std::mt19937 engine(static_cast<unsigned>(keys) + Rows);
  std::exponential_distribution<float> some(0.5f);
  std::vector<float> from(static_cast<std::size_t>(keys) * Rows);
  // Row r is 2^-r times as large as the first; the last one is 0.
  for (std::size_t i = 0; i < from.size(); ++i)
    from[i] = Rows > 1 && i % Rows == Rows - 1 ? 0 : std::ldexp(some(engine), -static_cast<int>(i % Rows));
  if (Rows == 1) from[0] = -20;
  integer_weights weights;
  weights.convert<Rows>(from.data(), keys);
  for (int row = 0; row < Rows; ++row) {
    float most = 0;
    for (index_t key = 0; key < keys; ++key)
      most = std::max(most, std::abs(from[static_cast<std::size_t>(key * Rows + row)]));
    EXPECT_FLOAT_EQ(weights.scale[row], most / integer_steps);
    for (index_t key = 0; key < 2 * weights.half; ++key) {
      float const wanted = key < keys ? from[static_cast<std::size_t>(key * Rows + row)] : 0;
      int const got = integer_of(weights, Rows, key, row);
      EXPECT_LE(std::abs(got), integer_steps);
      // Half a step, and the rounding of the quotient, which is up to 32767.
      EXPECT_NEAR(static_cast<double>(got) * weights.scale[row], wanted, weights.scale[row] * (0.5 + 3 * 0x1p-9));
    }
  }
  if constexpr (Rows > 1) expect_near_integers<Rows / 2>(keys);
}

TEST(IntegerWeights, AreWithinHalfAStep) {
  for (index_t keys : {1, 2, 3, 31, 32, 33, 63, 64}) expect_near_integers(keys);
}

TEST(IntegerWeights, ThatAreNotFiniteMakeTheirRowNaN) {
  for (float const odd : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    for (std::size_t const key : {0u, 17u, 39u}) {
      std::vector<float> from(40 * 2, 0.5f);
      from[key * 2 + 1] = odd;
      integer_weights weights;
      weights.convert<2>(from.data(), 40);
      EXPECT_EQ(weights.scale[0], 0.5f / integer_steps);
      EXPECT_TRUE(std::isnan(weights.scale[1]));
    }
}

TEST(IntegerWeights, CountAsZeroBelowTheNormalRange) {
  std::vector<float> const from(64, 0x1p-120f);
  integer_weights weights;
  weights.convert<1>(from.data(), 64);
  for (index_t key = 0; key < 64; ++key) EXPECT_EQ(integer_of(weights, 1, key, 0), 0);
}

/// Rows of random stored integers.
template <class T>
struct stored_rows {
  index_t dimension, bytes;
  std::vector<T> stored;
  std::vector<void const*> address;

  stored_rows(index_t keys, index_t columns) : dimension(columns), bytes(columns / elements_in<T>) {
    std::mt19937 engine(7);
    for (index_t i = 0; i < keys * bytes; ++i) {
      if constexpr (std::same_as<T, caches::int4_pair>)
        stored.push_back({static_cast<std::uint8_t>(engine() % 256)});
      else
        stored.push_back(static_cast<T>(static_cast<int>(engine() % 256) - 128));
    }
    for (index_t key = 0; key < keys + 8; ++key) address.push_back(stored.data() + std::min(key, keys - 1) * bytes);
  }
  int at(index_t key, index_t column) const {
    T const number = stored[static_cast<std::size_t>(key * bytes + column / elements_in<T>)];
    if constexpr (std::same_as<T, caches::int4_pair>)
      return (column % 2 == 0 ? number.bits & 15 : number.bits >> 4) - 8;
    else
      return number;
  }
};

template <class T, int Rows>
void expect_exact_sums(index_t keys, index_t step, index_t columns) {
  SCOPED_TRACE(testing::Message() << Rows << " rows, " << keys << " keys, " << columns << " columns");
  stored_rows<T> const values(keys, columns);
  simd::vector<float> const empty(3.0f);
  std::vector<float> memory(static_cast<std::size_t>(64 * Rows + Rows * columns + 2 * lanes), 3);
  float* const weights = memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) / 4 % lanes;
  float* const sum = weights + round_up(64 * Rows, index_t{lanes});
  std::mt19937 engine(3);
  for (index_t i = 0; i < keys * Rows; ++i) weights[i] = static_cast<float>(engine() % 1000) / 999;
  value_work<float> const work{values.address.data(), keys, weights, nullptr, Rows, columns / lanes, sum, columns};
  add_pair_values_in_steps<T, Rows>(work, step, nullptr);
  for (int row = 0; row < Rows; ++row) {
    std::vector<double> wanted(static_cast<std::size_t>(columns), 3), magnitude = wanted;
    for (index_t first = 0; first < keys; first += step) {
      integer_weights rounded;
      index_t const some = std::min(step, keys - first);
      rounded.convert<Rows>(weights + first * Rows, some);
      for (index_t key = 0; key < some; ++key)
        for (index_t c = 0; c < columns; ++c) {
          double const term =
              static_cast<double>(rounded.scale[row]) * integer_of(rounded, Rows, key, row) * values.at(first + key, c);
          wanted[static_cast<std::size_t>(c)] += term;
          magnitude[static_cast<std::size_t>(c)] += std::abs(term);
        }
    }
    for (index_t v = 0; v < columns / lanes; ++v)
      for (index_t l = 0; l < lanes; ++l) {
        auto const column = static_cast<std::size_t>(simd::stored_column<T, true>(v, l));
        // The sum is converted to a float, multiplied and added, once for each step.
        ASSERT_NEAR(sum[row * columns + v * lanes + l], wanted[column],
                    3 * static_cast<double>(divide_up(keys, step)) * 0x1p-24 * magnitude[column])
            << row << ' ' << v << ' ' << l;
      }
  }
}

template <class T>
void expect_exact_sums_of_shapes() {
  for (index_t const groups : {1, 2, 3, 5})
    for (index_t const keys : {1, 2, 33, 64}) {
      index_t const columns = groups * simd::group_elements<T, true>;
      expect_exact_sums<T, 1>(keys, 64, columns);
      expect_exact_sums<T, 2>(keys, 24, columns);
      expect_exact_sums<T, 4>(keys, 64, columns);
      expect_exact_sums<T, lanes>(keys, 7, columns);
    }
}

TEST(SplitIntegers, AddBytesUp) { expect_exact_sums_of_shapes<std::int8_t>(); }
TEST(SplitIntegers, AddFourBitsUp) { expect_exact_sums_of_shapes<caches::int4_pair>(); }

}  // namespace
}  // namespace attend::engine
