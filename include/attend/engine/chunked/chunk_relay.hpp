// SPDX-License-Identifier: BSD-3-Clause
// Shares tasks that stand in rows among threads, where only a part of each waits for the task before it in its row:
// runs of chunks of a sequence, of which each receives the state from the one before and passes it on.
//
//   begin(task)       what depends on no other task
//   pass(task, part)  for each part of the state: receives it, and makes what the next task receives
//   end(task)         what nobody waits for
//
// Threads take the tasks in order. The state moves part by part, so that several tasks pass on different parts at the
// same time: with n threads on a row, of which each is at another place of its task, nobody waits unless the passing of
// one part takes longer than an n-th of a task.
//
//   thread 0    begin 0 -------- pass 0 .... end 0 --------- begin 3 -------- pass 3 ....
//   thread 1         begin 1 -------- pass 1 .... end 1 --------- begin 4 --------
//   thread 2              begin 2 -------- pass 2 .... end 2 ---------
//
// Several rows alternate, task by task, so that as few threads as can be are on the same one: with r rows, task t comes
// after task t - r, and the first r tasks receive nothing.
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
  /// Task t keeps what it passes on in slot t % slots, of which there are more than rows. The slot is used again when
  /// the task and its successor have ended.
  chunk_relay(scratch& memory, index_t tasks, index_t rows, index_t parts, index_t slots)
      : tasks_(tasks), rows_(rows), parts_(parts), slots_(slots), slot_(memory.allocate<slot>(slots)) {
    static_assert(std::is_trivially_destructible_v<slot>);
    for (index_t i = 0; i < slots; ++i) new (slot_ + i) slot;
  }

  /// Works on tasks until none is left, or something was thrown. Any number of threads may call this at the same time.
  template <class Begin, class Pass, class End>
  void work(Begin const& begin, Pass const& pass, End const& end) {
    for (index_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) {
      detail::attempt_and_pass_on([&] { run(task, begin, pass, end); }, [&] { failed_.store(true); });
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
  void run(index_t task, Begin const& begin, Pass const& pass, End const& end) {
    if (task >= slots_ && !(has_ended(task - slots_) && has_ended(task - slots_ + rows_))) return;
    begin(task);
    slot& mine = slot_[task % slots_];
    index_t const before = task - rows_;
    index_t received = before < 0 ? parts_ : 0;
    for (index_t part = 0; part < parts_; ++part) {
      // Who is far behind the task before looks once: each look fetches a cache line that another processor writes.
      if (part == received) {
        index_t const passed = wait(slot_[before % slots_].passed, before * parts_ + part + 1);
        if (passed == never) return;
        received = passed - before * parts_;
      }
      pass(task, part);
      mine.passed.store(task * parts_ + part + 1, std::memory_order_release);
    }
    end(task);
    mine.ended.store(task + 1, std::memory_order_release);
  }
  bool has_ended(index_t task) const { return wait(slot_[task % slots_].ended, task + 1) != never; }

  static constexpr index_t never = -1;

  /// Returns a number once it is at least `least`; `never` where it never will be.
  index_t wait(std::atomic<index_t> const& number, index_t least) const {
    for (;;) {
      index_t const found = number.load(std::memory_order_acquire);
      if (found >= least) return found;
      if (failed_.load(std::memory_order_relaxed)) return never;
      detail::yield();
    }
  }

  index_t const tasks_, rows_, parts_, slots_;
  slot* const slot_;
  std::atomic<index_t> next_{0};
  std::atomic<bool> failed_{false};
};

}  // namespace attend::inline ATTEND_TARGET::engine
