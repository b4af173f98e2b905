// SPDX-License-Identifier: BSD-3-Clause
// Random words beside the known answers that come with Random123, and vectors of them beside single ones.
#include <gtest/gtest.h>

#include <attend/reference/dropout.hpp>
#include <attend/simd/philox.hpp>

namespace attend {
namespace {

using reference::philox_words;

// Random123, kat_vectors, philox4x32 with 10 rounds.
struct known_answer {
  philox_words counter;
  std::array<std::uint32_t, 2> key;
  philox_words random;
};
known_answer const known_answers[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

TEST(Philox, AnswersAreTheKnownOnes) {
  for (known_answer const& known : known_answers) {
    EXPECT_EQ(reference::philox(known.counter, known.key), known.random);
    std::uint64_t words[4];
    simd::wide_words lanes[4];
    for (int i = 0; i < 4; ++i) {
      words[i] = known.counter[static_cast<std::size_t>(i)];
      lanes[i] = simd::wide_words{} + words[i];
    }
    simd::philox(words, known.key[0], known.key[1]);
    simd::philox(lanes, known.key[0], known.key[1]);
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(static_cast<std::uint32_t>(words[i]), known.random[static_cast<std::size_t>(i)]);
      for (int lane = 0; lane < simd::width<double>; ++lane)
        EXPECT_EQ(static_cast<std::uint32_t>(lanes[i][lane]), known.random[static_cast<std::size_t>(i)]) << lane;
    }
  }
}

TEST(Philox, LanesAreCountersOfTheirOwn) {
  simd::wide_words lanes[4];
  for (int i = 0; i < 4; ++i)
    for (int lane = 0; lane < simd::width<double>; ++lane)
      lanes[i][lane] = 0x123456789u * static_cast<std::uint64_t>(7 * lane + i);  // above 32 bits, which do not count
  simd::wide_words const before[4] = {lanes[0], lanes[1], lanes[2], lanes[3]};
  simd::philox(lanes, 1, 2);
  for (int lane = 0; lane < simd::width<double>; ++lane) {
    philox_words counter;
    for (int i = 0; i < 4; ++i) counter[static_cast<std::size_t>(i)] = static_cast<std::uint32_t>(before[i][lane]);
    philox_words const random = reference::philox(counter, {1, 2});
    for (int i = 0; i < 4; ++i)
      EXPECT_EQ(static_cast<std::uint32_t>(lanes[i][lane]), random[static_cast<std::size_t>(i)]) << i << ' ' << lane;
  }
}

}  // namespace
}  // namespace attend
