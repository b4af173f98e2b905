// SPDX-License-Identifier: BSD-3-Clause
// Executors: every task runs exactly once, whoever runs it, from wherever the call comes; exceptions come out of the
// call; and nothing waits for a thread that will not come.
#include <attend/core/executor.hpp>

#include <gtest/gtest.h>

// Eigen's thread pool, without the tensors.
#define EIGEN_USE_THREADS
#include <unsupported/Eigen/CXX11/ThreadPool>

#include <chrono>
#include <future>
#include <numeric>
#include <set>
#include <string>

#include "support/executors.hpp"

namespace attend {
using namespace extend;

namespace {

/// How often each task ran.
class counted_tasks {
 public:
  explicit counted_tasks(index_t tasks) : counts_(static_cast<std::size_t>(tasks)) {}
  void count(index_t task) { ++counts_.at(static_cast<std::size_t>(task)); }
  bool each_ran_once() const {
    return std::all_of(counts_.begin(), counts_.end(), [](auto const& count) { return count == 1; });
  }

 private:
  std::vector<std::atomic<int>> counts_;
};

template <class E>
bool runs_each_task_once(E& executor, index_t tasks) {
  counted_tasks counted(tasks);
  test::on_all_threads(executor, tasks, [&](index_t task) { counted.count(task); });
  return counted.each_ran_once();
}

/// Lets threads wait for each other; gives up after a minute, so that a failure does not hang.
class meeting {
 public:
  explicit meeting(int expected) : expected_(expected) {}
  bool attend() {
    std::unique_lock lock(mutex_);
    if (--expected_ == 0) all_there_.notify_all();
    return all_there_.wait_for(lock, std::chrono::minutes(1), [&] { return expected_ <= 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_there_;
  int expected_;
};

/// Whether as many threads as there are tasks work on them at the same time.
template <class E>
bool tasks_meet(E& executor, int tasks) {
  meeting group_size(tasks);
  std::atomic<bool> met{true};
  std::mutex mutex;
  std::set<std::thread::id> workers;
  test::on_all_threads(executor, tasks, [&](index_t) {
    if (!group_size.attend()) met = false;
    std::lock_guard lock(mutex);
    workers.insert(std::this_thread::get_id());
  });
  return met && static_cast<int>(workers.size()) == tasks;
}

constexpr index_t task_counts[] = {0, 1, 2, 3, 7, 64, 1000};

TEST(Serial, RunsEachTaskInOrderOnTheCallingThread) {
  serial executor;
  for (index_t tasks : task_counts) {
    std::vector<index_t> order;
    test::on_all_threads(executor, tasks, [&](index_t task) { order.push_back(task); });
    std::vector<index_t> expected(static_cast<std::size_t>(tasks));
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(order, expected);
  }
}

TEST(Threads, RunEachTaskOnce) {
  for (int count : {0, 1, 2, 7}) {
    threads executor{count};
    for (index_t tasks : task_counts) EXPECT_TRUE(runs_each_task_once(executor, tasks)) << count << ' ' << tasks;
  }
}

TEST(Threads, OneIsTheCallingThread) {
  threads executor{1};
  test::on_all_threads(
      executor, 100, [caller = std::this_thread::get_id()](index_t) { ASSERT_EQ(std::this_thread::get_id(), caller); });
}

TEST(Threads, WorkAtTheSameTime) {
  for (int count : {2, 3, 7}) {
    threads executor{count};
    EXPECT_TRUE(tasks_meet(executor, count)) << count;
  }
}

TEST(Threads, AreNoMoreThanAskedFor) {
  threads many{7}, two{2};
  ASSERT_TRUE(tasks_meet(many, 7)) << "the pool now has more workers than the next call may use";
  std::mutex mutex;
  std::set<std::thread::id> workers;
  test::on_all_threads(two, 10000, [&](index_t) {
    std::lock_guard lock(mutex);
    workers.insert(std::this_thread::get_id());
  });
  EXPECT_LE(workers.size(), 2u);
}

TEST(Threads, RefuseANegativeCount) {
  try {
    detail::check_executor(threads{-1});
    ADD_FAILURE() << "not refused";
  } catch (argument_error const& error) {
    EXPECT_STREQ(error.what(), "threads: expected a count of at least 0, got -1");
  }
  EXPECT_NO_THROW(detail::check_executor(threads{0}));
  EXPECT_NO_THROW(detail::check_executor(threads{100000}));
  EXPECT_NO_THROW(detail::check_executor(serial{}));
}

TEST(Threads, MayBeUsedInsideATask) {
  threads outer{3}, inner{3};
  for (int round = 0; round < 20; ++round) {
    counted_tasks counted(5 * 4 * 3);
    test::on_all_threads(outer, 5, [&](index_t i) {
      test::on_all_threads(inner, 4, [&](index_t j) {
        test::on_all_threads(outer, 3, [&](index_t k) { counted.count((i * 4 + j) * 3 + k); });
      });
    });
    ASSERT_TRUE(counted.each_ran_once());
  }
}

TEST(Threads, MayBeUsedBySeveralThreadsAtOnce) {
  std::vector<std::future<bool>> callers;
  for (int caller = 0; caller < 6; ++caller)
    callers.push_back(std::async(std::launch::async, [caller] {
      threads executor{2 + caller % 3};
      for (int round = 0; round < 100; ++round)
        if (!runs_each_task_once(executor, 1 + round % 13)) return false;
      return true;
    }));
  for (auto& caller : callers) EXPECT_TRUE(caller.get());
}

TEST(Threads, DoNotWaitForABusyPool) {
  // More threads than any other test asks for: all workers of the pool are held inside this call.
  int const held = 8;
  meeting group_size(held + 1);
  std::promise<void> release;
  std::shared_future<void> const released = release.get_future().share();
  std::future<void> const busy = std::async(std::launch::async, [&] {
    threads all{held};
    test::on_all_threads(all, held, [&](index_t) {
      group_size.attend();
      released.wait();
    });
  });
  ASSERT_TRUE(group_size.attend());
  threads executor{3};
  for (int round = 0; round < 20; ++round) EXPECT_TRUE(runs_each_task_once(executor, 10));
  release.set_value();
  busy.wait();
}

/// What comes out of a loop of 50 tasks, of which `thrower` throws its own number.
template <class E>
std::string caught(E& executor, index_t thrower) {
  try {
    test::on_all_threads(executor, 50, [&](index_t task) {
      if (task == thrower) throw std::runtime_error(std::to_string(task));
    });
  } catch (std::runtime_error const& error) {
    return error.what();
  }
  return "nothing";
}

template <class E>
void expect_exceptions_come_out(E& executor) {
  for (index_t thrower : {0, 17, 49}) EXPECT_EQ(caught(executor, thrower), std::to_string(thrower));
  EXPECT_EQ(caught(executor, 50), "nothing");
  EXPECT_THROW(test::on_all_threads(executor, 50, [](index_t) { throw 1; }), int) << "all throw";
  EXPECT_TRUE(runs_each_task_once(executor, 50)) << "the executor serves on";
}

/// Two tasks that run at the same time, of which the one not on the calling thread throws.
template <class E>
void expect_a_helpers_exception_comes_out(E& executor) {
  meeting group_size(2);
  auto const body = [&, caller = std::this_thread::get_id()](index_t) {
    group_size.attend();
    if (std::this_thread::get_id() != caller) throw std::runtime_error("from a helper");
  };
  EXPECT_THROW(test::on_all_threads(executor, 2, body), std::runtime_error);
}

TEST(Serial, LetsExceptionsOut) {
  serial executor;
  expect_exceptions_come_out(executor);
}

TEST(Threads, LetExceptionsOut) {
  for (int count : {1, 2, 7}) {
    threads executor{count};
    expect_exceptions_come_out(executor);
  }
  threads two{2};
  expect_a_helpers_exception_comes_out(two);
}

TEST(Threads, StopAtAnException) {
  threads executor{2};
  std::atomic<index_t> ran{0};
  EXPECT_THROW(test::on_all_threads(executor, index_t{1} << 40,
                                    [&](index_t) {
                                      if (++ran == 100) throw std::runtime_error("enough");
                                    }),
               std::runtime_error)
      << "without the stop this runs for hours";
}

TEST(Threads, LetExceptionsOutOfANestedLoop) {
  threads executor{3};
  auto const nested = [&](index_t i) {
    test::on_all_threads(executor, 4, [&](index_t j) {
      if (i == 2 && j == 3) throw std::runtime_error("inner");
    });
  };
  EXPECT_THROW(test::on_all_threads(executor, 4, nested), std::runtime_error);
}

TEST(EigenThreadPool, IsAnExecutor) {
  static_assert(Executor<Eigen::ThreadPool> && Executor<Eigen::ThreadPool&> && Executor<Eigen::ThreadPoolInterface&>);
  static_assert(Executor<serial> && Executor<threads const&>);
  static_assert(!Executor<int> && !Executor<std::thread> && !Executor<Eigen::ThreadPool*>);
}

TEST(EigenThreadPool, RunsEachTaskOnce) {
  for (int count : {1, 2, 5}) {
    Eigen::ThreadPool pool(count);
    for (index_t tasks : task_counts) EXPECT_TRUE(runs_each_task_once(pool, tasks)) << count << ' ' << tasks;
    Eigen::ThreadPoolInterface& interface = pool;
    EXPECT_TRUE(runs_each_task_once(interface, 100));
  }
}

TEST(EigenThreadPool, WorksTogetherWithTheCallingThread) {
  Eigen::ThreadPool pool(3);
  EXPECT_TRUE(tasks_meet(pool, 3));
}

TEST(EigenThreadPool, LetsExceptionsOut) {
  Eigen::ThreadPool pool(3);
  expect_exceptions_come_out(pool);
  expect_a_helpers_exception_comes_out(pool);
}

TEST(EigenThreadPool, ServesACallFromItsOwnThreads) {
  // All threads of the pool call at once: none is free to help another.
  int const count = 3;
  Eigen::ThreadPool pool(count);
  meeting group_size(count);
  std::vector<std::promise<bool>> done(count);
  for (int i = 0; i < count; ++i)
    pool.Schedule([&, i] {
      bool passed = group_size.attend();
      for (int round = 0; round < 20; ++round) passed = passed && runs_each_task_once(pool, 10);
      done[static_cast<std::size_t>(i)].set_value(passed);
    });
  for (auto& each : done) EXPECT_TRUE(each.get_future().get());
}

TEST(EigenThreadPool, MayBeUsedInsideATask) {
  Eigen::ThreadPool pool(3);
  counted_tasks counted(20);
  test::on_all_threads(pool, 5,
                       [&](index_t i) { test::on_all_threads(pool, 4, [&](index_t j) { counted.count(i * 4 + j); }); });
  EXPECT_TRUE(counted.each_ran_once());
}

TEST(EigenThreadPool, MayBeUsedBySeveralThreadsAtOnce) {
  Eigen::ThreadPool pool(2);
  std::vector<std::future<bool>> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.push_back(std::async(std::launch::async, [&] {
      for (int round = 0; round < 100; ++round)
        if (!runs_each_task_once(pool, 1 + round % 13)) return false;
      return true;
    }));
  for (auto& caller : callers) EXPECT_TRUE(caller.get());
}

/// A pool that runs what it takes at once, on threads of its own, and takes only so many tasks.
class reluctant_pool {
 public:
  reluctant_pool(int threads, int takes) : threads_(threads), takes_(takes) {}
  ~reluctant_pool() {
    for (std::thread& worker : workers_) worker.join();
  }
  void Schedule(std::function<void()> task) {
    ++asked;
    if (takes_-- <= 0) throw std::runtime_error("enough");
    workers_.emplace_back(std::move(task));
  }
  int NumThreads() const { return threads_; }
  int CurrentThreadId() const { return -1; }

  int asked = 0;

 private:
  int threads_, takes_;
  std::vector<std::thread> workers_;
};

TEST(ThreadPool, ThatTakesNoMoreTasksIsDoneWithout) {
  for (int takes : {0, 1, 2}) {
    reluctant_pool pool(4, takes);
    EXPECT_TRUE(runs_each_task_once(pool, 100)) << takes;
  }
}

TEST(ThreadPool, IsNotAskedForMoreThanItHasOrThereAreTasks) {
  reluctant_pool few(3, 100), many(100000, 1000);
  EXPECT_TRUE(runs_each_task_once(few, 50));
  EXPECT_EQ(few.asked, 2) << "the calling thread is the third";
  EXPECT_TRUE(runs_each_task_once(many, 8));
  EXPECT_EQ(many.asked, 7);
}

TEST(ThreadPool, IsAskedForHelpAsFarAsTheWorkIsWorth) {
  auto const asked = [](detail::loop_cost const& cost, int threads, index_t tasks) {
    struct {
      void Schedule(std::function<void()> const& task) { ++asked, task(); }
      int NumThreads() const { return threads; }
      int CurrentThreadId() const { return -1; }
      int threads, asked = 0;
    } pool{threads};
    counted_tasks counted(tasks);
    detail::parallel_for(pool, tasks, cost, [&](index_t task) { counted.count(task); });
    EXPECT_TRUE(counted.each_ran_once());
    return pool.asked;
  };
  int const others = static_cast<int>(detail::processors()) - 1;
  EXPECT_EQ(asked({}, 1000, 50), 0);
  EXPECT_EQ(asked({1e6, 1e6}, 1000, 50), 0) << "less than it costs to wake a thread";
  for (detail::loop_cost const& much : {detail::loop_cost{1e15}, detail::loop_cost{.bytes = 1e15}}) {
    EXPECT_EQ(asked(much, 1000, 1000), std::min(others, 255)) << "no more than can run at the same time";
    EXPECT_EQ(asked(much, 1000, 2), std::min(others, 1));
    EXPECT_EQ(asked(much, 1, 1000), 0);
  }
  EXPECT_EQ((detail::loop_cost{1, 2} + detail::loop_cost{3, 4}).bytes, 6);
}

TEST(ThreadPool, IsAskedForAtMost255Helpers) {
  struct {
    void Schedule(std::function<void()> const& task) { ++asked, task(); }
    int NumThreads() const { return 100000; }
    int CurrentThreadId() const { return -1; }
    int asked = 0;
  } pool;
  EXPECT_TRUE(runs_each_task_once(pool, 2000));
  EXPECT_EQ(pool.asked, 255);
}

}  // namespace
}  // namespace attend
