// SPDX-License-Identifier: BSD-3-Clause
// Linear attention has the same bits by a matrix unit and by its emulation.
#include "linear_bits.hpp"

#include <gtest/gtest.h>

namespace {

TEST(LinearBits, AreThoseOfTheEmulation) {
  auto const emulated = attend_bits::of_emulation(), found = attend_bits::of_machine();
  ASSERT_TRUE(emulated.by_unit);
  if (!found.by_unit) GTEST_SKIP() << "no matrix unit";
  EXPECT_EQ(found.bits, emulated.bits);
}

}  // namespace
