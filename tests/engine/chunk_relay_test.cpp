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

/// A sum of numbers that goes through `rows` rows of tasks, as a state does: slot t % slots holds, for each part, the
/// sum after task t.
struct sums {
  index_t const tasks, rows, parts, slots;
  std::vector<index_t> held;  // [slot][part]
  std::vector<index_t> seen;  // [task] the sum of all parts before the task, read at its end
  std::atomic<int> begun{0};

  sums(index_t of_tasks, index_t of_rows, index_t of_parts, index_t of_slots)
      : tasks(of_tasks),
        rows(of_rows),
        parts(of_parts),
        slots(of_slots),
        held(static_cast<std::size_t>(of_slots * of_parts), -1),
        seen(static_cast<std::size_t>(of_tasks), -1) {}

  index_t& at(index_t task, index_t part) { return held[static_cast<std::size_t>(task % slots * parts + part)]; }
  bool is_first(index_t task) const { return task < rows; }

  template <class Fail>
  void run(int threads_wanted, Fail&& fail) {
    scratch memory;
    chunk_relay relay(memory, tasks, rows, parts, slots);
    threads executor{threads_wanted};
    test::on_all_threads(executor, threads_wanted, [&](index_t) {
      relay.work(
          [&](index_t task) {
            fail(task);
            ++begun;
            for (index_t part = 0; part < parts; ++part) at(task, part) = task + part;
          },
          [&](index_t task, index_t part) {
            if (!is_first(task)) at(task, part) += at(task - rows, part);
          },
          [&](index_t task) {
            // Long enough for others to run ahead, who must leave the sums before this task alone.
            std::this_thread::sleep_for(std::chrono::microseconds(task % 3 * 20));
            index_t sum = 0;
            for (index_t part = 0; part < parts && !is_first(task); ++part) sum += at(task - rows, part);
            seen[static_cast<std::size_t>(task)] = sum;
          });
    });
  }

  index_t expected(index_t task) const {
    index_t sum = 0;
    for (index_t t = task % rows; t < task; t += rows)
      for (index_t part = 0; part < parts; ++part) sum += t + part;
    return sum;
  }
};

TEST(ChunkRelay, PassesEachPartOnInOrder) {
  for (int const count : {1, 2, 3, 16, 33})
    for (index_t const parts : {1, 5})
      for (index_t const rows : {1, 7, 150, 200})
        for (index_t const more : {1, 2, 65}) {
          index_t const slots = rows + more;
          sums all(150, rows, parts, slots);
          all.run(count, [](index_t) {});
          EXPECT_EQ(all.begun, 150);
          for (index_t task = 0; task < all.tasks; ++task)
            EXPECT_EQ(all.seen[static_cast<std::size_t>(task)], all.expected(task))
                << "task " << task << " of " << rows << " rows, " << parts << " parts, " << slots << " slots, " << count
                << " threads";
        }
}

TEST(ChunkRelay, EndsForEverybodyWhereSomethingIsThrown) {
  for (int const count : {1, 2, 33}) {
    sums all(150, 1, 4, 6);
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
  sums none(0, 1, 4, 2);
  none.run(3, [](index_t) {});
  EXPECT_EQ(none.begun, 0);
}

}  // namespace
}  // namespace attend
