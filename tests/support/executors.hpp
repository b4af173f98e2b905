// SPDX-License-Identifier: BSD-3-Clause
// Every kind of executor, for tests that say that a result does not depend on who computes it.
#pragma once

#include <attend/core/executor.hpp>
#include <string>

// Eigen's thread pool, without the tensors.
#define EIGEN_USE_THREADS
#include <unsupported/Eigen/CXX11/ThreadPool>

namespace attend::test {

/// Eigen's pool, to be handed on like other options.
struct shared_pool {
  Eigen::ThreadPool* pool;

  void Schedule(std::function<void()> task) const { pool->Schedule(std::move(task)); }
  int NumThreads() const { return pool->NumThreads(); }
  int CurrentThreadId() const { return pool->CurrentThreadId(); }
};

/// A loop on all the threads that the executor gives, whatever it costs to wake them.
template <class E, class Body>
void on_all_threads(E& executor, index_t tasks, Body&& body) {
  attend::detail::run_tasks(executor, attend::detail::worker_limit(executor), tasks, body);
}

/// Calls call(executor, its name). threads{1} is the calling thread alone, as serial is.
template <class Call>
void for_executors(Call&& call) {
  for (int count : {1, 2, 3, 8}) call(threads{count}, "threads " + std::to_string(count));
  Eigen::ThreadPool pool(3);
  call(shared_pool{&pool}, std::string("Eigen's pool"));
}

}  // namespace attend::test
