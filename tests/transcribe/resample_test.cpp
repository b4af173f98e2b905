// SPDX-License-Identifier: BSD-3-Clause
// Resampling: what both rates can say stays as it is, what the lower one cannot say is gone, and wrong rates are
// refused.
#include "resample.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <numbers>
#include <stdexcept>
#include <vector>

namespace {

using testing::Each;
using testing::ElementsAre;
using testing::FloatNear;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using whisper::resample;

std::vector<float> sine(double hertz, std::uint32_t rate, std::size_t size) {
  std::vector<float> result;
  for (std::size_t i = 0; i < size; ++i)
    result.push_back(static_cast<float>(std::sin(2 * std::numbers::pi * hertz * static_cast<double>(i) / rate)));
  return result;
}

/// The largest difference, away from the ends by what the window reaches over.
float distance(std::vector<float> const& a, std::vector<float> const& b) {
  float most = 0;
  for (std::size_t i = 200; i + 200 < std::min(a.size(), b.size()); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

TEST(Resample, KeepsASine) {
  for (std::uint32_t const from : {8000u, 11025u, 22050u, 44100u, 48000u, 15999u})
    for (double const hertz : {50., 440., 3000.}) {
      auto const resampled = resample(sine(hertz, from, from / 2), from, 16000);
      EXPECT_THAT(resampled, SizeIs((from / 2 * std::uint64_t{16000} + from - 1) / from));
      // The Hann window's side lobes, -44 dB next to the main one and falling by 18 dB an octave, are what is left.
      EXPECT_LT(distance(resampled, sine(hertz, 16000, resampled.size())), 1e-3f) << hertz << " Hz from " << from;
    }
}

TEST(Resample, TakesAwayWhatTheLowerRateCannotSay) {
  auto const silent = resample(sine(9000, 48000, 24000), 48000, 16000);
  EXPECT_LT(distance(silent, std::vector<float>(silent.size())), 1e-3f);
  auto const kept = resample(sine(7000, 48000, 24000), 48000, 16000);
  EXPECT_LT(distance(kept, sine(7000, 16000, kept.size())), 1e-3f);
}

TEST(Resample, KeepsAConstant) {
  auto const resampled = resample(std::vector<float>(1000, .5f), 22050, 16000);
  auto const inside = std::vector<float>(resampled.begin() + 100, resampled.end() - 100);
  EXPECT_THAT(inside, Each(FloatNear(.5f, 1e-5f)));  // a sum of 90 products, each rounded
}

TEST(Resample, ChangesNothingAtTheSameRate) {
  EXPECT_THAT(resample(std::vector{1.f, -2.f}, 16000, 16000), ElementsAre(1, -2));
}

TEST(Resample, TakesAnyNumberOfSamples) {
  EXPECT_THAT(resample({}, 8000, 16000), IsEmpty());
  for (std::size_t size = 1; size < 100; ++size) {
    EXPECT_THAT(resample(std::vector<float>(size, 1), 8000, 16000), SizeIs(2 * size));
    EXPECT_THAT(resample(std::vector<float>(size, 1), 48000, 16000), SizeIs((size + 2) / 3));
  }
}

TEST(Resample, RefusesOtherRates) {
  for (std::uint32_t const rate : {0u, 3999u, 192001u, 0xFFFFFFFFu}) try {
      resample(std::vector{1.f}, rate, 16000);
      FAIL() << rate;
    } catch (std::invalid_argument const& error) {
      EXPECT_THAT(error.what(), HasSubstr("rate: expected 4000 to 192000 samples a second, got "));
    }
}

}  // namespace
