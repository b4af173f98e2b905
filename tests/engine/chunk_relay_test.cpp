// SPDX-License-Identifier: BSD-3-Clause
// Threads share tasks in a row: each part goes from task to task in order, and nobody writes what another still reads.
#include <gtest/gtest.h>

#include <atomic>
#include <attend/core/executor.hpp>
#include <attend/engine/chunked/chunk_relay.hpp>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/executors.hpp"

namespace attend {
using namespace extend;

namespace {

using engine::chunk_relay;

/// A sum of numbers that goes through rows of tasks, `row` tasks long, as a state does: slot t % slots holds, for each
/// part, the sum after task t.
struct sums {
  index_t const tasks, parts, slots, row;
  std::vector<index_t> held;  // [slot][part]
  std::vector<index_t> seen;  // [task] the sum of all parts before the task, read at its end
  std::atomic<int> begun{0};

  sums(index_t of_tasks, index_t of_parts, index_t of_slots, index_t of_row)
      : tasks(of_tasks),
        parts(of_parts),
        slots(of_slots),
        row(of_row),
        held(static_cast<std::size_t>(of_slots * of_parts), -1),
        seen(static_cast<std::size_t>(of_tasks), -1) {}

  index_t& at(index_t task, index_t part) { return held[static_cast<std::size_t>(task % slots * parts + part)]; }
  bool is_first(index_t task) const { return task % row == 0; }

  template <class Fail>
  void run(int threads_wanted, Fail&& fail) {
    scratch memory;
    chunk_relay relay(memory, tasks, parts, slots);
    threads executor{threads_wanted};
    test::on_all_threads(executor, threads_wanted, [&](index_t) {
      relay.work([&](index_t task) { return is_first(task); },
                 [&](index_t task) {
                   fail(task);
                   ++begun;
                   for (index_t part = 0; part < parts; ++part) at(task, part) = task + part;
                 },
                 [&](index_t task, index_t part) {
                   if (!is_first(task)) at(task, part) += at(task - 1, part);
                 },
                 [&](index_t task) {
                   // Long enough for others to run ahead, who must leave the sums before this task alone.
                   std::this_thread::sleep_for(std::chrono::microseconds(task % 3 * 20));
                   index_t sum = 0;
                   for (index_t part = 0; part < parts && !is_first(task); ++part) sum += at(task - 1, part);
                   seen[static_cast<std::size_t>(task)] = sum;
                 });
    });
  }

  index_t expected(index_t task) const {
    index_t sum = 0;
    for (index_t t = task / row * row; t < task; ++t)
      for (index_t part = 0; part < parts; ++part) sum += t + part;
    return sum;
  }
};

TEST(ChunkRelay, PassesEachPartOnInOrder) {
  for (int const count : {1, 2, 3, 16, 33})
    for (index_t const parts : {1, 5})
      for (index_t const slots : {2, 3, 66})
        for (index_t const row : {1, 7, 200}) {
          sums all(150, parts, slots, row);
          all.run(count, [](index_t) {});
          EXPECT_EQ(all.begun, 150);
          for (index_t task = 0; task < all.tasks; ++task)
            EXPECT_EQ(all.seen[static_cast<std::size_t>(task)], all.expected(task))
                << "task " << task << " of rows of " << row << ", " << parts << " parts, " << slots << " slots, "
                << count << " threads";
        }
}

TEST(ChunkRelay, EndsForEverybodyWhereSomethingIsThrown) {
  for (int const count : {1, 2, 33}) {
    sums all(150, 4, 6, 200);
    EXPECT_THROW(all.run(count,
                         [](index_t task) {
                           if (task == 50) throw std::runtime_error("nothing to begin with");
                         }),
                 std::runtime_error);
    EXPECT_EQ(all.seen[49] == -1 || all.seen[49] == all.expected(49), true);
    EXPECT_EQ(all.seen[50], -1);
    EXPECT_EQ(all.seen[51], -1);
  }
}

TEST(ChunkRelay, HasNothingToDoWithoutTasks) {
  sums none(0, 4, 2, 1);
  none.run(3, [](index_t) {});
  EXPECT_EQ(none.begun, 0);
}

}  // namespace
}  // namespace attend
