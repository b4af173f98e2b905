// SPDX-License-Identifier: BSD-3-Clause
// Shares the work of a head among threads where there are more threads than heads. The chunks of a head follow each
// other, and the work on a chunk is of two kinds: preparing it, which needs no state, and carrying the state of a block
// of value columns through it. So some threads prepare chunks ahead of the threads that carry states:
//
//   prepare(line, step, slot)          once for each step, in any order, into one of several slots
//   advance(line, block, step, slot)   for each block of columns, step after step, once the step is prepared
//
// A slot is used again when all blocks are done with its step. A thread that finds no block to advance prepares a step:
// so the work is balanced for any number of threads, and the results do not depend on which thread does what first.
//
// There are several lines, each of which has its own steps, blocks and slots.
#pragma once

#include <algorithm>

#include "../../core/mutex.hpp"
#include "../../core/scratch.hpp"

namespace attend::inline ATTEND_TARGET::engine {

struct pipeline_size {
  index_t lines, blocks, slots;
};

template <class Steps, class Prepare, class Advance>
class chunk_pipeline {
 public:
  /// `steps(line)` is the number of steps of a line.
  chunk_pipeline(scratch& memory, pipeline_size const& size, Steps const& steps, Prepare const& prepare,
                 Advance const& advance)
      : size_(size),
        steps_(steps),
        prepare_(prepare),
        advance_(advance),
        next_(memory.allocate<index_t>(size.lines)),
        ready_(memory.allocate<index_t>(size.lines * size.slots)),
        done_(memory.allocate<index_t>(size.lines * size.blocks)),
        busy_(memory.allocate<bool>(size.lines * size.blocks)) {
    std::fill_n(next_, size.lines, 0);
    std::fill_n(ready_, size.lines * size.slots, -1);
    std::fill_n(done_, size.lines * size.blocks, 0);
    std::fill_n(busy_, size.lines * size.blocks, false);
  }

  /// Works on a line until all of its steps are done, or something was thrown. Any number of threads may call this at
  /// the same time.
  void work(index_t line) {
    index_t mine = 0;  // the block advanced last: its state is in this processor's cache
    attend::detail::unique_lock lock(mutex_);
    while (!failed_ && first_unfinished(line) < steps_(line)) {
      if (index_t const block = ready_block(line, mine); block >= 0) {
        index_t& step = done_[line * size_.blocks + block];
        bool& busy = busy_[line * size_.blocks + block];
        busy = true;
        run(lock, [&, at = step] { advance_(line, block, at, line * size_.slots + at % size_.slots); });
        busy = false;
        ++step;
        mine = block;
      } else if (next_[line] < std::min(steps_(line), first_unfinished(line) + size_.slots)) {
        index_t const step = next_[line]++, slot = line * size_.slots + step % size_.slots;
        run(lock, [&] { prepare_(line, step, slot); });
        ready_[slot] = step;
      } else {
        // Other threads are working on all steps that could be next.
        lock.unlock();
        attend::detail::yield();
        lock.lock();
      }
    }
  }

 private:
  template <class Work>
  void run(attend::detail::unique_lock& lock, Work&& work) {
    lock.unlock();
    detail::attempt_and_pass_on(work, [&] {
      lock.lock();
      failed_ = true;
    });
    lock.lock();
  }

  index_t first_unfinished(index_t line) const {
    index_t const* const done = done_ + line * size_.blocks;
    return *std::min_element(done, done + size_.blocks);
  }

  index_t ready_block(index_t line, index_t mine) const {
    for (index_t i = 0; i < size_.blocks; ++i) {
      index_t const block = (mine + i) % size_.blocks, at = line * size_.blocks + block;
      if (!busy_[at] && ready_[line * size_.slots + done_[at] % size_.slots] == done_[at]) return block;
    }
    return -1;
  }

  pipeline_size const size_;
  Steps const& steps_;
  Prepare const& prepare_;
  Advance const& advance_;
  attend::detail::mutex mutex_;
  index_t* next_;   // [line]                 the step to prepare next
  index_t* ready_;  // [line][slot]           the step that the slot holds
  index_t* done_;   // [line][block]          the number of steps done
  bool* busy_;      // [line][block]
  bool failed_ = false;
};

}  // namespace attend::inline ATTEND_TARGET::engine
