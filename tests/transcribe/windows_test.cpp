// SPDX-License-Identifier: BSD-3-Clause
// Where long audio is cut: nowhere where it fits, else where it is quiet, never ahead of the last five seconds.
#include "windows.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace {

std::vector<float> noise(std::size_t size) {
  std::vector<float> result(size);
  for (std::size_t i = 0; i < size; ++i) result[i] = i % 2 == 0 ? .5f : -.5f;
  return result;
}

TEST(Windows, TakeAllThatFits) {
  for (std::size_t const size : {0u, 1u, 479999u, 480000u}) EXPECT_EQ(whisper::next_window(noise(size)), size);
}

TEST(Windows, EndWhereItIsQuiet) {
  for (std::size_t const quiet : {405000u, 440000u, 475000u}) {
    auto samples = noise(600000);
    std::fill_n(samples.begin() + static_cast<std::ptrdiff_t>(quiet - 4000), 8000, 0.f);
    auto const end = whisper::next_window(samples);
    EXPECT_GE(end, quiet - 4000);
    EXPECT_LE(end, quiet + 4000);
  }
}

TEST(Windows, AreNeitherLongerThanTheModelHearsNorEmpty) {
  auto samples = noise(2000000);
  std::fill_n(samples.begin(), 390000, 0.f);  // quiet too early
  auto const end = whisper::next_window(samples);
  EXPECT_GE(end, 400000u);
  EXPECT_LE(end, 480000u);
  EXPECT_LE(whisper::next_window(std::vector<float>(480001)), 480000u);
}

}  // namespace
