// SPDX-License-Identifier: BSD-3-Clause
// Threads share the steps of some lines: each step is prepared once, each block takes them in order, whoever comes.
#include <gtest/gtest.h>

#include <atomic>
#include <attend/core/executor.hpp>
#include <attend/engine/chunked/chunk_pipeline.hpp>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/executors.hpp"

namespace attend {
using namespace extend;

namespace {

using engine::chunk_pipeline;
using engine::pipeline_size;

struct record {
  pipeline_size size;
  std::vector<index_t> held;               // [line][slot], the step prepared there
  std::vector<index_t> done;               // [line][block]
  std::vector<std::atomic<int>> prepared;  // [line][step]
  std::atomic<int> mistakes{0};

  static constexpr index_t max_steps = 40;

  explicit record(pipeline_size const& s)
      : size(s),
        held(static_cast<std::size_t>(s.lines * s.slots), -1),
        done(static_cast<std::size_t>(s.lines * s.blocks), 0),
        prepared(static_cast<std::size_t>(s.lines * max_steps)) {}

  static index_t steps(index_t line) { return max_steps - 3 * line; }

  template <class Fail>
  void run(int threads_wanted, Fail&& fail) {
    scratch memory;
    auto const count = [](index_t line) { return steps(line); };
    auto const prepare = [&](index_t line, index_t step, index_t slot) {
      fail(line, step);
      held[static_cast<std::size_t>(slot)] = step;
      ++prepared[static_cast<std::size_t>(line * max_steps + step)];
    };
    auto const advance = [&](index_t line, index_t block, index_t step, index_t slot) {
      if (slot / size.slots != line) ++mistakes;
      // Long enough for others to run ahead, who must leave the slot alone.
      std::this_thread::sleep_for(std::chrono::microseconds(20));
      if (held[static_cast<std::size_t>(slot)] != step) ++mistakes;
      if (done[static_cast<std::size_t>(line * size.blocks + block)]++ != step) ++mistakes;
    };
    chunk_pipeline pipeline(memory, size, count, prepare, advance);
    threads executor{threads_wanted};
    test::on_all_threads(executor, size.lines * size.blocks, [&](index_t task) { pipeline.work(task % size.lines); });
  }
};

TEST(ChunkPipeline, DoesEachStepOnceAndInOrder) {
  for (int const count : {1, 2, 3, 7})
    for (pipeline_size const& size : {pipeline_size{1, 1, 1}, pipeline_size{1, 2, 4}, pipeline_size{3, 2, 2}}) {
      record log(size);
      log.run(count, [](index_t, index_t) {});
      EXPECT_EQ(log.mistakes, 0);
      for (index_t line = 0; line < size.lines; ++line) {
        for (index_t block = 0; block < size.blocks; ++block)
          EXPECT_EQ(log.done[static_cast<std::size_t>(line * size.blocks + block)], record::steps(line));
        for (index_t step = 0; step < record::steps(line); ++step)
          EXPECT_EQ(log.prepared[static_cast<std::size_t>(line * record::max_steps + step)], 1);
      }
    }
}

TEST(ChunkPipeline, EndsForEverybodyWhereSomethingIsThrown) {
  for (int const count : {1, 2, 7}) {
    record log({2, 3, 4});
    EXPECT_THROW(log.run(count,
                         [](index_t line, index_t step) {
                           if (line == 1 && step == 9) throw std::runtime_error("nothing to prepare");
                         }),
                 std::runtime_error);
    EXPECT_EQ(log.mistakes, 0);
    EXPECT_LE(log.done[3], 9);
  }
}

}  // namespace
}  // namespace attend
