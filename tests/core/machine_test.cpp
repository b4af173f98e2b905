// SPDX-License-Identifier: BSD-3-Clause
// What is decided by the machine, and the words of the environment that replace it.
#include <attend/core/machine.hpp>

#include <gtest/gtest.h>

#include "support/expect_error.hpp"

namespace attend {
namespace {

using detail::machine;

TEST(Machine, TakesTheWordsOfTheEnvironment) {
  machine m;
  m.change("read_ahead=8192  non_temporal=1");
  EXPECT_EQ(m.read_ahead, 8192);
  EXPECT_TRUE(m.non_temporal);
  m.change("non_temporal=0");
  EXPECT_FALSE(m.non_temporal);
  EXPECT_EQ(m.read_ahead, 8192);
  m.change("pages_in_turns=1");
  EXPECT_TRUE(m.pages_in_turns);
  m.change("");
  EXPECT_EQ(m.read_ahead, 8192);
}

TEST(Machine, SaysItselfInWordsThatItTakes) {
  machine m;
  std::string const words =
      "read_ahead=1 non_temporal=1 pages_in_turns=1 matrix_unit=0 pair_instructions=1 wake=2 relay_bytes=3 "
      "block_bytes=4 tile_bytes=5 split_bytes=6 part_work=7 chunk_work=8 latent_rows=9 mixture_rows=10";
  m.change(words);
  EXPECT_EQ(m.words(), words);
}

TEST(Machine, GetsNoMatrixUnitByAWord) {
  machine m;
  m.matrix_unit = false;
  m.change("matrix_unit=1");
  EXPECT_FALSE(m.matrix_unit);
  m.matrix_unit = true;
  m.change("matrix_unit=1");
  EXPECT_TRUE(m.matrix_unit);
  m.change("matrix_unit=0");
  EXPECT_FALSE(m.matrix_unit);
}

TEST(Machine, RefusesOtherWords) {
  for (char const* const word :
       {"read_ahead", "read_ahead=", "read_ahead=-1", "read_ahead=1k", "read_ahead=10000000000", "threads=2", "=1"}) {
    machine m;
    test::expect_error(
        std::string("ATTEND_MACHINE: expected one of read_ahead, non_temporal, pages_in_turns, matrix_unit, "
                    "pair_instructions, wake, relay_bytes, block_bytes, tile_bytes, split_bytes, part_work, "
                    "chunk_work, latent_rows, "
                    "mixture_rows with a number below 1000000000, such as read_ahead=12288, got ") +
            word,
        [&] { m.change(std::string("non_temporal=0 ") + word); });
  }
}

TEST(Machine, IsDecidedOnce) { EXPECT_EQ(&machine::here(), &machine::here()); }

}  // namespace
}  // namespace attend
