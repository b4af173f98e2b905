// SPDX-License-Identifier: BSD-3-Clause
// Rows as small integers: each number comes back within half a step, and what is no number does not come back as one.
#include <attend/cache/quantize.hpp>

#include <gtest/gtest.h>

#include <cmath>

#include "support/random_tensor.hpp"

namespace attend {
using namespace caches;
using namespace extend;

namespace {

template <class Q>
class Quantize : public testing::Test {};
using quantized_types = testing::Types<std::int8_t, int4_pair>;
TYPED_TEST_SUITE(Quantize, quantized_types);

template <class Q, class T>
std::vector<float> there_and_back(std::vector<T> const& row, std::vector<float> const& channel_scale, float& scale) {
  auto const count = static_cast<index_t>(row.size());
  std::vector<float> factor;
  for (float channel : channel_scale) factor.push_back(1 / channel);
  // One element more than the row has, which must stay as it is.
  std::vector<Q> stored(static_cast<std::size_t>(detail::row_elements<Q>(count)) + 1);
  std::memset(static_cast<void*>(stored.data()), 0x5a, stored.size());
  scale = detail::quantize_row(row.data(), factor.empty() ? nullptr : factor.data(), count, stored.data());
  std::uint8_t guard;
  std::memcpy(&guard, static_cast<void const*>(&stored.back()), 1);
  EXPECT_EQ(guard, 0x5a);
  std::vector<float> back(row.size() + 1, 7.0f);
  detail::dequantize_row(stored.data(), scale, channel_scale.empty() ? nullptr : channel_scale.data(), count,
                         back.data());
  EXPECT_EQ(back.back(), 7.0f);
  back.pop_back();
  return back;
}

// Half a step, and the rounding of the scale, the quotient and the product: three roundings of at most `steps` steps.
template <class Q>
double allowed(float scale, int roundings = 3) {
  return scale * (0.5 + detail::max_steps<Q> * roundings * 0x1p-24);
}

template <class Q, class T>
void expect_half_steps(index_t count, unsigned seed) {
  auto const row = test::normal<T, 1>({count}, seed, std::exp2(static_cast<double>(seed % 40) - 20)).elements;
  float most = 0, scale = 0;
  for (T x : row) most = std::max(most, std::abs(static_cast<float>(x)));
  auto const back = there_and_back<Q>(row, {}, scale);
  EXPECT_FLOAT_EQ(scale, most / detail::max_steps<Q>);
  for (std::size_t i = 0; i < row.size(); ++i)
    EXPECT_LE(std::abs(back[i] - static_cast<float>(row[i])), allowed<Q>(scale)) << "at " << i << " of " << count;
}

TYPED_TEST(Quantize, KeepsNumbersWithinHalfAStep) {
  for (index_t count = 0; count < 70; ++count) {
    expect_half_steps<TypeParam, float>(count, static_cast<unsigned>(count));
    expect_half_steps<TypeParam, half>(count, static_cast<unsigned>(20 + count % 4));
    expect_half_steps<TypeParam, bfloat16>(count, static_cast<unsigned>(count + 7));
  }
}

TYPED_TEST(Quantize, UsesTheWholeRange) {
  float scale;
  std::vector<float> const row{-3, 3, 0, 1.5f};
  auto const back = there_and_back<TypeParam>(row, {}, scale);
  EXPECT_FLOAT_EQ(back[0], -3);
  EXPECT_FLOAT_EQ(back[1], 3);
  EXPECT_EQ(back[2], 0);
}

TYPED_TEST(Quantize, DividesByChannelScales) {
  index_t const count = 37;
  auto row = test::normal<float, 1>({count}, 1).elements;
  std::vector<float> channels(row.size(), 1.0f);
  channels[5] = 1000;
  channels[30] = 0.01f;
  for (std::size_t c = 0; c < row.size(); ++c) row[c] *= channels[c];
  float scale;
  auto const back = there_and_back<TypeParam>(row, channels, scale);
  EXPECT_LT(scale, 4 / detail::max_steps<TypeParam>);
  // One over the channel's scale is rounded too, and so are the products with it and with the scale.
  for (std::size_t c = 0; c < row.size(); ++c)
    EXPECT_LE(std::abs(double(back[c]) - row[c]), allowed<TypeParam>(scale, 6) * channels[c]) << c;
}

TYPED_TEST(Quantize, KeepsZerosAndTakesWhatIsAsSmallForZero) {
  for (float tiny : {0.0f, 1e-42f, -1e-40f}) {
    float scale;
    auto const back = there_and_back<TypeParam>(std::vector<float>(19, tiny), {}, scale);
    EXPECT_EQ(scale, 0);
    for (float x : back) EXPECT_EQ(x, 0);
  }
}

TYPED_TEST(Quantize, MakesARowWithoutAllNumbersNaN) {
  for (float bad : {infinity<float>, -infinity<float>, std::numeric_limits<float>::quiet_NaN()})
    for (std::size_t at : {0u, 16u, 18u}) {
      std::vector<float> row(19, 1.0f);
      row[at] = bad;
      float scale;
      for (float x : there_and_back<TypeParam>(row, {}, scale)) EXPECT_TRUE(std::isnan(x));
    }
}

TEST(Int4Pair, HoldsTheEvenElementInTheLowHalf) {
  std::vector<float> const row{7, -7, 3};
  int4_pair stored[2];
  EXPECT_EQ(detail::quantize_row(row.data(), nullptr, 3, stored), 1);
  EXPECT_EQ(stored[0].bits, (7 + 8) | (-7 + 8) << 4);
  EXPECT_EQ(stored[1].bits & 15, 3 + 8);
}

TEST(ConvertRow, RoundsOnceAndWritesNoMore) {
  auto const row = test::normal<float, 1>({37}, 1).elements;
  std::vector<bfloat16> to(38, bfloat16(7));
  detail::convert_row(row.data(), 37, to.data());
  for (std::size_t i = 0; i < row.size(); ++i) EXPECT_EQ(to[i], bfloat16(row[i]));
  EXPECT_EQ(to[37], bfloat16(7));
}

}  // namespace
}  // namespace attend
