// SPDX-License-Identifier: BSD-3-Clause
// How the chunked engine cuts a problem: tokens of a chunk, and who works on which columns.
#include <gtest/gtest.h>

#include <attend/engine/chunked/chunked.hpp>
#include <utility>

namespace attend {
using namespace extend;

namespace {

using engine::chunk_cut;
using engine::head_sharing;

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

chunk_cut cut_of(engine::state_problem<float> const& p, head_sharing sharing, index_t workers,
                 bool whole_columns = false) {
  return chunk_cut::of(p, 64, whole_columns, sharing, workers);
}

TEST(ChunkCut, TheCallMaySayHowLong) {
  for (head_sharing const sharing :
       {head_sharing::value_columns, head_sharing::solved_chunks, head_sharing::added_chunks}) {
    EXPECT_EQ(cut_of(problem_of(4, 500), sharing, 1).chunk, 64);
    EXPECT_EQ(cut_of(problem_of(4, 500, 37), sharing, 1).chunk, 37);
    EXPECT_EQ(cut_of(problem_of(4, 20), sharing, 1).chunk, 20);
    EXPECT_EQ(cut_of(problem_of(4, 0), sharing, 1).chunk, 1);
  }
}

/// With a state that is too large to go from thread to thread.
engine::state_problem<float> large_problem_of(index_t heads, index_t tokens) {
  engine::state_problem<float> p = problem_of(heads, tokens);
  p.shape.features = detail::machine::here().relay_bytes / (128 * static_cast<index_t>(sizeof(float))) + 16;
  return p;
}

TEST(ChunkCut, ThreadsShareHeadsThatTheyDoNotDivide) {
  struct expected {
    index_t heads, workers, lines, blocks;
  };
  index_t const most = 128 / simd::width<float> / 2;
  for (expected const& e :
       {expected{1, 1, 0, 1}, {8, 2, 0, 1}, {9, 2, 0, 1}, {1, 2, 1, 2}, {3, 2, 1, 2}, {6, 4, 2, 2}}) {
    chunk_cut const cut = cut_of(large_problem_of(e.heads, 4096), head_sharing::solved_chunks, e.workers);
    EXPECT_EQ(cut.lines, e.lines) << e.heads << " heads, " << e.workers << " threads";
    EXPECT_EQ(cut.column_blocks, e.blocks) << e.heads << " heads, " << e.workers << " threads";
    EXPECT_GE(cut.columns * cut.column_blocks, 128);
    EXPECT_EQ(cut.sharers, 0);
  }
  EXPECT_EQ(cut_of(large_problem_of(1, 4096), head_sharing::solved_chunks, 64).column_blocks, most);
  // Rows that are divided by their length are not cut; nor is what is done before a thread is awake.
  EXPECT_EQ(cut_of(large_problem_of(1, 4096), head_sharing::solved_chunks, 2, true).column_blocks, 1);
  EXPECT_EQ(cut_of(problem_of(1, 4), head_sharing::solved_chunks, 2).column_blocks, 1);
  // Where chunks cannot be shared, blocks of columns are tasks of their own, each wide enough to prepare them anew.
  EXPECT_EQ(cut_of(problem_of(1, 4096), head_sharing::value_columns, 2).lines, 0);
  EXPECT_EQ(cut_of(problem_of(1, 4096), head_sharing::value_columns, 2).column_blocks, 2);
  EXPECT_EQ(cut_of(problem_of(1, 4096), head_sharing::value_columns, 64).column_blocks, 2);
  engine::state_problem<float> narrow = large_problem_of(1, 4096);
  narrow.shape.value_dimension = 64;
  narrow.shape.features *= 2;
  EXPECT_EQ(cut_of(narrow, head_sharing::value_columns, 2).column_blocks, 1);
  EXPECT_EQ(cut_of(narrow, head_sharing::solved_chunks, 2).column_blocks, 2);
}

TEST(ChunkCut, ThreadsShareChunks) {
  auto const sharers = [](engine::state_problem<float> const& p, index_t workers, bool whole_columns = false) {
    chunk_cut const cut = cut_of(p, head_sharing::added_chunks, workers, whole_columns);
    if (cut.sharers > 0) {
      EXPECT_EQ(cut.column_blocks, 1);
      EXPECT_EQ(cut.columns, 128);
      EXPECT_EQ(cut.lines, 0);
    }
    return cut.sharers;
  };
  EXPECT_EQ(sharers(problem_of(1, 4096), 16), 16);
  EXPECT_EQ(sharers(problem_of(9, 4096), 16), 16);
  // No more than there are chunks, and only where threads do not divide the heads.
  EXPECT_EQ(sharers(problem_of(1, 256), 16), 4);
  EXPECT_EQ(sharers(problem_of(1, 4096), 1), 0);
  EXPECT_EQ(sharers(problem_of(16, 4096), 16), 0);
  // Two threads share columns where each would pass on the state after every chunk, unless columns belong together.
  EXPECT_EQ(sharers(problem_of(1, 256), 2), 0);
  EXPECT_EQ(cut_of(problem_of(1, 256), head_sharing::added_chunks, 2).column_blocks, 2);
  EXPECT_EQ(sharers(problem_of(1, 256), 2, true), 2);
  // A large state stays where it is.
  engine::state_problem<float> large = problem_of(1, 4096);
  large.shape.features = detail::machine::here().relay_bytes / (128 * static_cast<index_t>(sizeof(float)));
  EXPECT_EQ(sharers(large, 4), 4);
  large.shape.features += simd::width<float>;
  EXPECT_EQ(sharers(large, 4), 0);
  EXPECT_GT(cut_of(large, head_sharing::added_chunks, 4).column_blocks, 1);
}

TEST(ChunkCut, ThreadsSolveDifferentPanels) {
  auto const cut_for = [](index_t heads, index_t workers) {
    return cut_of(problem_of(heads, 4096), head_sharing::solved_chunks, workers);
  };
  for (index_t const heads : {1, 3, 8}) {
    index_t widest = simd::register_vectors;
    for (index_t const workers : {3, 5, 7, 16, 33, 64}) {
      if (heads % workers == 0 || heads >= 4 * workers) continue;
      SCOPED_TRACE(testing::Message() << heads << " heads, " << workers << " threads");
      chunk_cut const cut = cut_for(heads, workers);
      EXPECT_EQ(cut.sharers, std::min(workers, 2 * heads * cut.panels));
      EXPECT_EQ(cut.parts(), cut.panels);
      EXPECT_GE(cut.panels * cut.panel_vectors * simd::width<float>, 128);
      // More threads want more panels; eight sums are in flight.
      EXPECT_LE(cut.panel_vectors, widest);
      EXPECT_GE(cut.panel_vectors * simd::register_rows, 8);
      widest = cut.panel_vectors;
    }
  }
  // Two threads have blocks of columns.
  EXPECT_EQ(cut_for(1, 2).sharers, 0);
  EXPECT_EQ(cut_for(1, 2).column_blocks, 2);
  if (simd::width<float> != 16 || simd::register_rows != 8) return;
  // Three panels keep five threads busy, four panels six; eight of them are slower, and worth it from nine threads on.
  for (auto const& [workers, vectors] : {std::pair{3, 3}, {5, 3}, {6, 2}, {8, 2}, {9, 1}, {16, 1}})
    EXPECT_EQ(cut_for(1, workers).panel_vectors, vectors) << workers << " threads";
  EXPECT_EQ(cut_for(8, 16).panel_vectors, 3);
}

TEST(ChunkCut, ThreadsTakeRunsOfChunks) {
  index_t const cache = detail::machine::here().relay_bytes, number = static_cast<index_t>(sizeof(float));
  for (index_t const dimension : {16, 64, 128, 256})
    for (index_t const workers : {2, 3, 16})
      for (index_t const tokens : {256, 4096, 65536}) {
        SCOPED_TRACE(testing::Message() << dimension << " columns, " << tokens << " tokens, " << workers << " threads");
        engine::state_problem<float> p = problem_of(1, tokens);
        p.shape.key_dimension = p.shape.features = p.shape.value_dimension = dimension;
        chunk_cut const cut = cut_of(p, head_sharing::added_chunks, workers);
        if (cut.sharers == 0) continue;
        // The states, and rows of keys, queries, values and outputs, fit; and each thread has several runs. A short
        // call has fewer threads than it may.
        index_t const bytes = (dimension + 4 * cut.chunk) * dimension * number, chunks = tokens / cut.chunk;
        EXPECT_GE(cut.run, 1);
        if (cut.run > 1) {
          EXPECT_LE(cut.run * bytes, cache);
          EXPECT_GE(chunks, 4 * cut.run * cut.sharers);
        }
        // One more would not.
        EXPECT_TRUE(cut.run == chunk_cut::longest_run || (cut.run + 1) * bytes > cache ||
                    chunks / cut.sharers < 4 * (cut.run + 1));
      }
  EXPECT_EQ(cut_of(problem_of(1, 65536), head_sharing::added_chunks, 1).run, 1);
}

}  // namespace
}  // namespace attend
