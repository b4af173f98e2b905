// SPDX-License-Identifier: BSD-3-Clause
// The mode that attend computes in: what it is, who is in it, and that everybody gets their own back.
#include <attend/core/arithmetic_mode.hpp>

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "support/caller_modes.hpp"
#include "support/executors.hpp"

namespace attend {
using namespace extend;

namespace {

using detail::floating_point;
using test::caller_mode;
using test::caller_modes;
using test::in_mode;
using test::mode_bits;

/// A number that the compiler does not know.
template <class T>
T unknown(T x) {
  T volatile hidden = x;
  return hidden;
}

/// What the machine does with numbers that its mode matters for.
template <class T>
bool computes_as_attend() {
#if defined(__SSE__) || defined(__aarch64__)
  T const least = unknown(std::numeric_limits<T>::min()), one = unknown(T(1));
  T const tiny = unknown(std::numeric_limits<T>::denorm_min());
  T const bit = std::numeric_limits<T>::epsilon() / 4;
  return least / 2 == 0 && tiny * one == 0 && one + bit == one && -one - bit == -one && one - bit / 2 == one;
#else
  return true;
#endif
}

TEST(ArithmeticMode, RoundsToNearestAndFlushesInAnyMode) {
  for (caller_mode const& mode : caller_modes()) {
    bool real = false, wide = false;
    {
      in_mode const callers(mode.bits);
      arithmetic_mode const arithmetic;
      real = computes_as_attend<float>();
      wide = computes_as_attend<double>();
    }
    EXPECT_TRUE(real && wide) << mode.name;
  }
}

TEST(ArithmeticMode, GivesTheModeAndItsFlagsBack) {
  for (caller_mode const& mode : caller_modes()) {
    mode_bits after = 0;
    {
      in_mode const callers(mode.bits);
      {
        arithmetic_mode const arithmetic;
        unknown(unknown(1.f) / unknown(3.f));
        arithmetic_mode const inside;
        unknown(unknown(0.f) / unknown(0.f));
      }
      after = floating_point::read();
    }
    EXPECT_EQ(after, mode.bits) << mode.name;
  }
}

TEST(ArithmeticMode, GivesTheModeBackWhereAnExceptionEndsIt) {
  for (caller_mode const& mode : caller_modes()) {
    mode_bits after = 0;
    {
      in_mode const callers(mode.bits);
      try {
        arithmetic_mode const arithmetic;
        unknown(unknown(1.f) / unknown(3.f));
        throw std::runtime_error("thrown");
      } catch (std::runtime_error const&) {
      }
      after = floating_point::read();
    }
    EXPECT_EQ(after, mode.bits) << mode.name;
  }
}

TEST(ArithmeticMode, OneInsideAnotherChangesNothing) {
  arithmetic_mode const outer;
  mode_bits const before = floating_point::read();
  {
    arithmetic_mode const inner;
  }
  EXPECT_EQ(floating_point::read(), before);
  EXPECT_TRUE(computes_as_attend<float>());
}

TEST(ArithmeticMode, OfCallerIsTheOutermostCalls) {
  for (caller_mode const& mode : caller_modes()) {
    mode_bits during = 0, after = 0;
    bool same = false;
    {
      in_mode const callers(mode.bits);
      arithmetic_mode const outer;
      {
        arithmetic_mode const inner;
        arithmetic_mode::of_caller const back;
        during = floating_point::read();
      }
      after = floating_point::read() & ~floating_point::flags;
      same = computes_as_attend<float>();
    }
    EXPECT_EQ(during, mode.bits) << mode.name;
    EXPECT_EQ(after, floating_point::own) << mode.name;
    EXPECT_TRUE(same) << mode.name;
  }
  mode_bits const before = floating_point::read();
  {
    arithmetic_mode::of_caller const nobodys;
  }
  EXPECT_EQ(floating_point::read(), before);
}

template <class E>
void expect_tasks_in_mode(E& executor) {
  for (caller_mode const& mode : caller_modes()) {
    std::atomic<int> others{0};
    mode_bits after = 0;
    {
      in_mode const callers(mode.bits);
      test::on_all_threads(executor, 100, [&](index_t) {
        if (!computes_as_attend<float>()) ++others;
      });
      after = floating_point::read();
    }
    EXPECT_EQ(others, 0) << mode.name;
    EXPECT_EQ(after, mode.bits) << mode.name;
    {
      in_mode const callers(mode.bits);
      try {
        test::on_all_threads(executor, 100, [](index_t task) {
          if (task == 50) throw std::runtime_error("thrown");
        });
      } catch (std::runtime_error const&) {
        after = floating_point::read();
      }
    }
    EXPECT_EQ(after, mode.bits) << "past an exception, " << mode.name;
  }
}

TEST(ArithmeticMode, IsThatOfTasksOnEveryExecutor) {
  serial alone;
  threads three{3};
  Eigen::ThreadPool pool(3);
  expect_tasks_in_mode(alone);
  expect_tasks_in_mode(three);
  expect_tasks_in_mode(pool);
}

/// A pool that makes a thread for each task, and remembers the modes of its threads before and after it.
class remembering_pool {
 public:
  void Schedule(std::function<void()> task) {
    workers_.emplace_back([this, task = std::move(task)] {
      mode_bits const before = floating_point::read();
      task();
      mode_bits const after = floating_point::read();
      std::lock_guard lock(mutex_);
      modes_.insert(modes_.end(), {before, after});
    });
  }
  int NumThreads() const { return 4; }
  int CurrentThreadId() const { return -1; }

  std::vector<mode_bits> modes() {
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
    return std::exchange(modes_, {});
  }

 private:
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::vector<mode_bits> modes_;
};

// A thread takes over the mode of the one that makes it: that of the caller, though it is made during a call.
TEST(ArithmeticMode, AForeignPoolsThreadsAreInTheCallersMode) {
  for (caller_mode const& mode : caller_modes()) {
    remembering_pool pool;
    {
      in_mode const callers(mode.bits);
      arithmetic_mode const call;
      test::on_all_threads(pool, 100, [&](index_t) { unknown(unknown(1.f) / unknown(3.f)); });
    }
    std::vector<mode_bits> const modes = pool.modes();
    EXPECT_EQ(modes.size(), 6u);
    for (mode_bits bits : modes)
      EXPECT_EQ(bits & ~floating_point::flags, mode.bits & ~floating_point::flags) << mode.name;
  }
}

}  // namespace
}  // namespace attend
