// SPDX-License-Identifier: BSD-3-Clause
// Who runs the tasks of a call: the calling thread, some threads of the library's own pool, or a pool of the caller's.
//
// A call is cut into tasks by its shape alone, never by the number of threads, and each task writes its own part of the
// output: so the results have the same bits with all executors. All of them compute in attend's own arithmetic mode.
//
// Waking a thread takes time: each loop states its approximate cost, and only as many threads are woken as save more
// time than waking them takes.
#pragma once

#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <exception>
#include <vector>

#include "arithmetic_mode.hpp"
#include "error.hpp"
#include "exceptions.hpp"
#include "machine.hpp"
#include "mutex.hpp"
#include "types.hpp"

#if ATTEND_THREADS
#include <condition_variable>
#endif

namespace attend::inline ATTEND_TARGET {

/// Runs everything on the calling thread. The default.
struct serial {};

/// Runs on up to `count` threads: the caller's and `count - 1` of a pool that the process keeps. 0 means one for each
/// processor. At most 256 work on one call. Waiting workers sleep.
struct threads {
  int count = 0;
};

namespace detail {

#if ATTEND_THREADS

/// One parallel loop, whose threads take tasks from a shared counter. The first exception ends the loop and is kept.
class parallel_loop {
 public:
  using body_type = void(void* context, index_t task);

  parallel_loop(index_t tasks, body_type* body, void* context) : tasks_(tasks), body_(body), context_(context) {}

  void work() noexcept {
    arithmetic_mode const arithmetic;
    for (index_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) {
      attempt([&] { body_(context_, task); },
              [&] {
                next_.store(tasks_, std::memory_order_relaxed);
                std::lock_guard lock(mutex_);
                if (!error_) error_ = std::current_exception();
              });
    }
  }

  /// A helper calls this when it has done its share. No helper may access the loop afterwards, since the calling thread
  /// destroys it once the last helper has left.
  void leave() {
    std::lock_guard lock(mutex_);
    if (--helpers_ == 0) all_left_.notify_all();
  }

  void expect_helpers(int helpers) { helpers_ = helpers; }

  void wait_for_helpers() {
    std::unique_lock lock(mutex_);
    all_left_.wait(lock, [&] { return helpers_ == 0; });
  }

  /// Excludes helpers that will never come from those that are waited for.
  void forgo_helpers(int helpers) {
    std::lock_guard lock(mutex_);
    helpers_ -= helpers;
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  index_t const tasks_;
  body_type* const body_;
  void* const context_;
  std::atomic<index_t> next_{0};
  std::mutex mutex_;
  std::condition_variable all_left_;
  int helpers_ = 0;
  std::exception_ptr error_;
};

/// The library's own pool. It grows to the largest number of threads asked for, and holds a queue of invitations to
/// loops; an invitation that no worker took before the loop was done is withdrawn, so a call never waits for a busy
/// pool.
class worker_pool {
 public:
  static worker_pool& instance() {
    static worker_pool pool;
    return pool;
  }

  ~worker_pool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void run(parallel_loop& loop, int helpers) {
    loop.expect_helpers(helpers);
    {
      std::lock_guard lock(mutex_);
      grow(helpers);
      // The insertion may throw: it is done before a worker can know of the loop.
      invitations_.insert(invitations_.end(), static_cast<std::size_t>(helpers), &loop);
    }
    helpers == 1 ? wake_.notify_one() : wake_.notify_all();
    loop.work();
    int withdrawn = 0;
    {
      std::lock_guard lock(mutex_);
      auto const end = std::remove(invitations_.begin(), invitations_.end(), &loop);
      withdrawn = static_cast<int>(invitations_.end() - end);
      invitations_.erase(end, invitations_.end());
    }
    loop.forgo_helpers(withdrawn);
    loop.wait_for_helpers();
  }

 private:
  static constexpr int max_workers = 255;

  worker_pool() {
    workers_.reserve(max_workers);
    invitations_.reserve(max_workers);
  }

  // Where the system gives no more threads, the existing ones do the work.
  void grow(int wanted) {
    attempt(
        [&] {
          while (static_cast<int>(workers_.size()) < std::min(wanted, max_workers))
            workers_.emplace_back([this] { serve(); });
        },
        [] {});
  }

  void serve() {
    for (;;) {
      parallel_loop* loop;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || !invitations_.empty(); });
        if (stop_) return;
        loop = invitations_.back();
        invitations_.pop_back();
      }
      loop->work();
      loop->leave();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<parallel_loop*> invitations_;
  std::vector<std::thread> workers_;
  bool stop_ = false;
};

#endif

template <class Pool>
concept Schedules = requires(Pool& pool, void (*task)()) { pool.Schedule(task); };

/// Eigen::ThreadPoolInterface, and pools that have the same members.
template <class Pool>
concept ThreadPool = Schedules<Pool> && requires(Pool& pool) {
  { pool.NumThreads() } -> std::convertible_to<int>;
  { pool.CurrentThreadId() } -> std::convertible_to<int>;
};

}  // namespace detail

namespace extend {

template <class E>
concept Executor = std::same_as<std::remove_cvref_t<E>, serial> || std::same_as<std::remove_cvref_t<E>, threads> ||
                   detail::ThreadPool<std::remove_cvref_t<E>>;

}  // namespace extend

namespace detail {

inline void check_executor(serial const&) {}
inline void check_executor(threads const& executor) {
  if (executor.count < 0) fail("threads", "expected a count of at least 0, got ", executor.count);
}
inline void check_executor(ThreadPool auto const&) {}

inline unsigned hardware_threads() {
#if ATTEND_THREADS
  return std::thread::hardware_concurrency();
#else
  return 1;
#endif
}

/// How many threads may work on a call at most.
template <class E>
index_t worker_limit(E const& executor) {
  if constexpr (std::same_as<std::remove_cvref_t<E>, threads>)
    return std::max(executor.count > 0 ? executor.count : static_cast<int>(hardware_threads()), 1);
  else if constexpr (ThreadPool<std::remove_cvref_t<E>>)
    // A thread of the pool works alone: its helpers might be queued behind the very task that would wait for them.
    return executor.CurrentThreadId() >= 0 ? 1 : executor.NumThreads();
  else
    return 1;
}

/// The number of processors that threads of this process may run on.
inline index_t processors() {
  static index_t const count = [] {
#if defined(__linux__)
    // std::thread::hardware_concurrency() may count those that the process was not given.
    cpu_set_t given;
    if (sched_getaffinity(0, sizeof(given), &given) == 0) return static_cast<index_t>(CPU_COUNT(&given));
#endif
    return static_cast<index_t>(std::max(1u, hardware_threads()));
  }();
  return count;
}

/// The approximate cost of all tasks of a loop, right within a factor of a few.
struct loop_cost {
  double operations = 0;  // floating-point operations
  double bytes = 0;       // bytes that are read and written

  static loop_cost of(index_t operations, index_t bytes = 0) {
    return {static_cast<double>(operations), static_cast<double>(bytes)};
  }
  friend loop_cost operator+(loop_cost a, loop_cost b) { return {a.operations + b.operations, a.bytes + b.bytes}; }
  friend loop_cost operator*(index_t times, loop_cost one) {
    return {static_cast<double>(times) * one.operations, static_cast<double>(times) * one.bytes};
  }

  /// The time that one core takes.
  double nanoseconds() const {
    return std::max(operations / machine::operations_per_nanosecond, bytes / machine::bytes_per_nanosecond);
  }

  /// How many threads, the calling one included, such a loop is worth. Waking a thread takes 5% of the shortest loop
  /// for which threads are woken. Each further thread saves less time: for each there are five times what waking it
  /// takes.
  index_t worthwhile_threads() const {
    double const wake = static_cast<double>(std::max<index_t>(machine::here().wake, 1));
    if (nanoseconds() < 20 * wake) return 1;
    return static_cast<index_t>(std::min(nanoseconds() / (5 * wake), 256.0));
  }
};

#if ATTEND_THREADS

/// Runs the tasks on the calling thread and at most `helpers` >= 1 others.
template <class E, class Body>
void run_with_helpers(E& executor, int helpers, index_t tasks, Body& body) {
  parallel_loop loop(
      tasks, [](void* context, index_t task) { (*static_cast<Body*>(context))(task); },
      const_cast<void*>(static_cast<void const*>(&body)));
  if constexpr (std::same_as<std::remove_cvref_t<E>, threads>) {
    worker_pool::instance().run(loop, helpers);
  } else {
    loop.expect_helpers(helpers);
    // Where the pool takes no more tasks, the helpers that it took and this thread do the work.
    int invited = 0;
    attempt(
        [&] {
          arithmetic_mode::of_caller const mode;
          for (; invited < helpers; ++invited)
            executor.Schedule([&loop] {
              loop.work();
              loop.leave();
            });
        },
        [&] { loop.forgo_helpers(helpers - invited); });
    loop.work();
    loop.wait_for_helpers();
  }
  loop.rethrow();
}

#endif

// Not inlined, so that no arithmetic of a task can move out of the mode that it is meant for.
template <class Body>
[[gnu::noinline]] void run_alone(index_t tasks, Body& body) {
  arithmetic_mode const arithmetic;
  for (index_t task = 0; task < tasks; ++task) body(task);
}

/// How many threads work on a loop of this cost: as many as it is worth, and no more than can run at the same time.
template <class E>
index_t workers_for(E const& executor, loop_cost const& cost) {
  index_t const worth = cost.worthwhile_threads();
  return worth > 1 ? std::min({worth, worker_limit(executor), processors()}) : 1;
}

/// Runs body(task) for every task in [0, tasks), in any order, and returns when all are done. An exception that a body
/// throws ends the loop early, and is thrown again by this call.
template <class E, class Body>
void run_tasks([[maybe_unused]] E& executor, [[maybe_unused]] index_t workers, index_t tasks, Body& body) {
#if ATTEND_THREADS
  if constexpr (!std::same_as<std::remove_cvref_t<E>, serial>) {
    int const helpers = static_cast<int>(std::min({workers, tasks, index_t{256}})) - 1;
    if (helpers > 0) return run_with_helpers(executor, helpers, tasks, body);
  }
#endif
  run_alone(tasks, body);
}

/// Runs body(task) for every task in [0, tasks) on as many threads as the loop's cost is worth.
template <class E, class Body>
void parallel_for(E& executor, index_t tasks, loop_cost const& cost, Body&& body) {
  run_tasks(executor, workers_for(executor, cost), tasks, body);
}

/// An executor of any type, for loops that are compiled once for all of them.
class any_executor {
 public:
  template <Executor E>
  explicit any_executor(E& executor)
      : executor_(const_cast<void*>(static_cast<void const*>(&executor))),
        workers_for_([](void const* of, loop_cost const& cost) {
          return detail::workers_for(*static_cast<E const*>(of), cost);
        }),
        run_([](void* to, index_t tasks, loop_cost const& cost, task_body* body, void* context) {
          parallel_for(*static_cast<E*>(to), tasks, cost, [=](index_t task) { body(context, task); });
        }) {}

  /// How many threads run() has for a loop of this cost.
  index_t workers_for(loop_cost const& cost) const { return workers_for_(executor_, cost); }

  template <class Body>
  void run(index_t tasks, loop_cost const& cost, Body const& body) const {
    run_(
        executor_, tasks, cost, [](void* context, index_t task) { (*static_cast<Body const*>(context))(task); },
        const_cast<void*>(static_cast<void const*>(&body)));
  }

 private:
  using task_body = void(void* context, index_t task);

  void* executor_;
  index_t (*workers_for_)(void const*, loop_cost const&);
  void (*run_)(void*, index_t, loop_cost const&, task_body*, void*);
};

}  // namespace detail

}  // namespace attend::inline ATTEND_TARGET
