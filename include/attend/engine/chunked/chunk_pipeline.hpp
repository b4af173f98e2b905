// SPDX-License-Identifier: BSD-3-Clause
// Sharing the work of a sequence among threads where there are more threads than sequences. Chunks come one after the
// other, and a chunk's work is of two kinds: preparing it, which needs no state, and carrying the state of some value
// columns through it. So threads prepare chunks ahead of those that carry:
//
//   prepare(line, step, slot)          once for each step, in any order, into one of some slots
//   advance(line, block, step, slot)   for each block of columns, step after step, once the step is prepared
//
// A slot is taken again when all blocks have left it. Whoever has nothing to advance prepares; so threads are even
// without waiting for each other, however many of them come. What a piece of work computes depends on nobody's being
// first.
//
// There are several such lines, each with its steps, blocks and slots.
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
  /// `steps(line)` says how many there are.
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

  /// Takes part in a line until all of it is done, or something was thrown. Any number of threads may, from one on.
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
        // Somebody else is at work on what comes next.
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
  index_t* ready_;  // [line][slot]           the step that it holds
  index_t* done_;   // [line][block]          steps done
  bool* busy_;      // [line][block]
  bool failed_ = false;
};

}  // namespace attend::inline ATTEND_TARGET::engine
