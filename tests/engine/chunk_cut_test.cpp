// SPDX-License-Identifier: BSD-3-Clause
// How the chunked engine cuts a problem: tokens of a chunk, and who works on which columns.
#include <gtest/gtest.h>

#include <attend/engine/chunked/chunked.hpp>

namespace attend {
using namespace extend;

namespace {

using engine::chunk_cut;

index_t chunk_of(index_t features, index_t depth, index_t columns, decay_kind kind = decay_kind::none) {
  return chunk_cut::chunk_for(features, depth, columns, kind);
}

TEST(ChunkCut, ChunksAreAsLongAsTheShapeWants) {
  // What is done once for a chunk is much beside two small heads, and little beside products that are 64 long.
  EXPECT_EQ(chunk_of(16, 16, 16), 64);
  EXPECT_EQ(chunk_of(64, 64, 64), 32);
  // Many features, whose products are those of short rows.
  EXPECT_GT(chunk_of(561, 32, 64), chunk_of(561, 561, 64));
  EXPECT_GT(chunk_of(32, 32, 32, decay_kind::vector), chunk_of(32, 32, 32));
  for (index_t features : {0, 1, 1000})
    for (index_t columns : {0, 1, 1000})
      if (features + columns > 0) {
        EXPECT_GE(chunk_of(features, features, columns), chunk_cut::shortest_usual);
        EXPECT_LE(chunk_of(features, features, columns), chunk_cut::longest_usual);
      }
}

engine::state_problem<float> problem_of(index_t heads, index_t tokens, index_t chunk = 0) {
  engine::state_problem<float> p;
  p.shape = {1, heads, heads, heads, tokens, tokens, 128, 128, 128};
  p.causal = true;
  p.chunk = chunk;
  return p;
}

TEST(ChunkCut, TheCallMaySayHowLong) {
  EXPECT_EQ(chunk_cut::of(problem_of(4, 500), 64, false, true, 1).chunk, 64);
  EXPECT_EQ(chunk_cut::of(problem_of(4, 500, 37), 64, false, true, 1).chunk, 37);
  EXPECT_EQ(chunk_cut::of(problem_of(4, 20), 64, false, true, 1).chunk, 20);
  EXPECT_EQ(chunk_cut::of(problem_of(4, 0), 64, false, true, 1).chunk, 1);
}

TEST(ChunkCut, ThreadsShareHeadsThatTheyDoNotDivide) {
  struct expected {
    index_t heads, workers, lines, blocks;
  };
  index_t const most = 128 / simd::width<float> / 2;
  for (expected const& e :
       {expected{1, 1, 0, 1}, {8, 2, 0, 1}, {9, 2, 0, 1}, {1, 2, 1, 2}, {3, 2, 1, 2}, {6, 4, 2, 2}}) {
    chunk_cut const cut = chunk_cut::of(problem_of(e.heads, 4096), 64, false, true, e.workers);
    EXPECT_EQ(cut.lines, e.lines) << e.heads << " heads, " << e.workers << " threads";
    EXPECT_EQ(cut.column_blocks, e.blocks) << e.heads << " heads, " << e.workers << " threads";
    EXPECT_GE(cut.columns * cut.column_blocks, 128);
  }
  EXPECT_EQ(chunk_cut::of(problem_of(1, 4096), 64, false, true, 64).column_blocks, most);
  // Rows that are divided by their length are not cut; nor is what is done before a thread is awake.
  EXPECT_EQ(chunk_cut::of(problem_of(1, 4096), 64, true, true, 2).column_blocks, 1);
  EXPECT_EQ(chunk_cut::of(problem_of(1, 4), 64, false, true, 2).column_blocks, 1);
  // Where chunks cannot be shared, blocks of columns are tasks of their own, each wide enough to prepare them anew.
  EXPECT_EQ(chunk_cut::of(problem_of(1, 4096), 64, false, false, 2).lines, 0);
  EXPECT_EQ(chunk_cut::of(problem_of(1, 4096), 64, false, false, 2).column_blocks, 2);
  EXPECT_EQ(chunk_cut::of(problem_of(1, 4096), 64, false, false, 64).column_blocks, 2);
  engine::state_problem<float> narrow = problem_of(1, 4096);
  narrow.shape.value_dimension = 64;
  EXPECT_EQ(chunk_cut::of(narrow, 64, false, false, 2).column_blocks, 1);
  EXPECT_EQ(chunk_cut::of(narrow, 64, false, true, 2).column_blocks, 2);
}

}  // namespace
}  // namespace attend
