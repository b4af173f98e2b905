// SPDX-License-Identifier: BSD-3-Clause
// Attention on threads that the program has already: Eigen's pool, or one of its own.
//
// A pool is anything with Schedule(task), NumThreads() and CurrentThreadId(). It is given to a call like any other
// option, and must outlive it. The bits are those of the serial call: threads decide who computes, never what.
#define EIGEN_USE_THREADS
#include <unsupported/Eigen/CXX11/ThreadPool>

#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/core/target.hpp>
#include <attend/policy/mask/causal.hpp>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <iostream>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

namespace {

/// A pool in the fewest lines: some threads and a list of tasks, all of which are run before it ends.
class small_pool {
 public:
  explicit small_pool(int threads) {
    for (int id = 0; id < threads; ++id) workers_.emplace_back([this, id] { serve(id); });
  }
  ~small_pool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  /// Takes a task, which some thread of the pool will run: attend waits for those that it has given.
  void Schedule(std::function<void()> task) {
    {
      std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
  }
  int NumThreads() const { return static_cast<int>(workers_.size()); }
  /// The number of the calling thread, or -1 if it is none of the pool's. A call that a thread of the pool makes runs
  /// on that thread alone, since waiting for the others could be waiting for itself.
  int CurrentThreadId() const { return pool_ == this ? id_ : -1; }

 private:
  void serve(int id) {
    pool_ = this;
    id_ = id;
    for (;;) {
      std::function<void()> task;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        task = std::move(tasks_.back());
        tasks_.pop_back();
      }
      task();
    }
  }

  inline static thread_local small_pool const* pool_ = nullptr;
  inline static thread_local int id_ = -1;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::function<void()>> tasks_;
  bool stop_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace

int main() {
  std::cout << "compiled for " << attend::runtime::target() << '\n';

  constexpr attend::index_t heads = 8, tokens = 512, dimension = 64;
  std::vector<float> inputs(3 * heads * tokens * dimension);
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  for (float& number : inputs) number = normal(engine);
  auto const input = [&](attend::index_t which) {
    return attend::tensor_view(inputs.data() + which * heads * tokens * dimension, {heads, tokens, dimension});
  };

  auto const attention = [&](auto& executor) {
    std::vector<float> output(heads * tokens * dimension);
    attend::softmax_attention(input(0), input(1), input(2),
                              attend::tensor_view(output.data(), {heads, tokens, dimension}), attend::causal{},
                              executor);
    return output;
  };

  attend::serial serial;
  std::vector<float> const expected = attention(serial);
  auto const same_bits = [&](char const* name, auto& executor) {
    auto const start = std::chrono::steady_clock::now();
    bool const same = attention(executor) == expected;
    std::chrono::duration<double, std::milli> const time = std::chrono::steady_clock::now() - start;
    std::cout << name << ": " << (same ? "the same bits" : "other bits") << ", " << time.count() << " ms\n";
    return same;
  };
  Eigen::ThreadPool eigen_pool(2);
  small_pool own_pool(2);
  bool same = same_bits("serial", serial);
  same = same_bits("Eigen's pool", eigen_pool) && same;
  same = same_bits("own pool", own_pool) && same;

  // Whole calls as tasks, as a server has them: each runs on its own thread.
  std::vector<float> outputs[4];
  {
    small_pool server(2);
    for (std::vector<float>& output : outputs) server.Schedule([&] { output = attention(server); });
  }  // the pool's end waits for its tasks
  for (std::vector<float> const& output : outputs) same = same && output == expected;
  return same ? 0 : 1;
}
