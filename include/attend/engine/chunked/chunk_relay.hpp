// SPDX-License-Identifier: BSD-3-Clause
// Shares tasks that stand in a row among threads, where only a part of each waits for the task before it: runs of
// chunks of a sequence, of which each receives the state from the one before and passes it on.
//
//   begin(task)       what depends on no other task
//   pass(task, part)  for each part of the state: receives it, and makes what the next task receives
//   end(task)         what nobody waits for
//
// Threads take the tasks in order. The state moves part by part, so that several tasks pass on different parts at the
// same time: with n threads, of which each is at another place of its task, nobody waits unless the passing of one part
// takes longer than an n-th of a task.
//
//   thread 0    begin 0 -------- pass 0 .... end 0 --------- begin 3 -------- pass 3 ....
//   thread 1         begin 1 -------- pass 1 .... end 1 --------- begin 4 --------
//   thread 2              begin 2 -------- pass 2 .... end 2 ---------
//
// Whoever waits, waits for tasks that were taken before, so any number of threads ends, even one alone.
#pragma once

#include <atomic>
#include <new>
#include <type_traits>

#include "../../core/mutex.hpp"
#include "../../core/scratch.hpp"

namespace attend::inline ATTEND_TARGET::engine {

class chunk_relay {
 public:
  /// Task t keeps what it passes on in slot t % slots, of which there are at least two. The slot is used again when the
  /// task and its successor have ended.
  chunk_relay(scratch& memory, index_t tasks, index_t parts, index_t slots)
      : tasks_(tasks), parts_(parts), slots_(slots), slot_(memory.allocate<slot>(slots)) {
    static_assert(std::is_trivially_destructible_v<slot>);
    for (index_t i = 0; i < slots; ++i) new (slot_ + i) slot;
  }

  /// Works on tasks until none is left, or something was thrown. Any number of threads may call this at the same time.
  /// `is_first(task)` says that a task receives nothing from the one before.
  template <class IsFirst, class Begin, class Pass, class End>
  void work(IsFirst const& is_first, Begin const& begin, Pass const& pass, End const& end) {
    for (index_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) {
      detail::attempt_and_pass_on([&] { run(task, is_first(task), begin, pass, end); }, [&] { failed_.store(true); });
      if (failed_.load(std::memory_order_relaxed)) return;
    }
  }

 private:
  /// What threads tell each other of the task in a slot. Each has cache lines of its own.
  struct alignas(detail::cache_line) slot {
    std::atomic<index_t> passed{0};  // task * parts + the number of its parts that are passed on
    std::atomic<index_t> ended{0};   // 1 + the last task that has ended
  };

  template <class Begin, class Pass, class End>
  void run(index_t task, bool first, Begin const& begin, Pass const& pass, End const& end) {
    slot& mine = slot_[task % slots_];
    if (task >= slots_ && !(wait(mine.ended, task - slots_ + 1) && wait(next(task).ended, task - slots_ + 2))) return;
    begin(task);
    for (index_t part = 0; part < parts_; ++part) {
      if (!first && !wait(slot_[(task - 1) % slots_].passed, (task - 1) * parts_ + part + 1)) return;
      pass(task, part);
      mine.passed.store(task * parts_ + part + 1, std::memory_order_release);
    }
    end(task);
    mine.ended.store(task + 1, std::memory_order_release);
  }
  slot& next(index_t task) const { return slot_[(task + 1) % slots_]; }

  /// Returns once a number is at least `least`; false where it never will be.
  bool wait(std::atomic<index_t> const& number, index_t least) const {
    while (number.load(std::memory_order_acquire) < least) {
      if (failed_.load(std::memory_order_relaxed)) return false;
      detail::yield();
    }
    return true;
  }

  index_t const tasks_, parts_, slots_;
  slot* const slot_;
  std::atomic<index_t> next_{0};
  std::atomic<bool> failed_{false};
};

}  // namespace attend::inline ATTEND_TARGET::engine
