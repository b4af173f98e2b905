// SPDX-License-Identifier: BSD-3-Clause
// Runs a problem whose updates do not read the state, with several threads on each head: the chunks are tasks, of which
// only the state goes from one to the next (chunk_relay.hpp).
//
//   begin   U_c = sum_j after(k)_j w_j^T                             what the chunk adds to the state
//   pass    S_{c+1} = a_c S_c + U_c                                  some features of the state at a time
//   end     o_i = before(q)_i^T S_c + sum_{j <= i} P_ij w_j
//
// These are the operations of the loop over chunks (chunked.hpp), so the results have the same bits, whatever the
// number of threads. Beside them, each chunk reads a state that another processor has written, and writes U_c, which
// becomes the state in its place: memory traffic of twice the state, where the chunk reads the state and writes it.
//
// Memory: two states for each thread.
#pragma once

#include "chunk_relay.hpp"
#include "column_block.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The tasks of a problem: for each head one that reads its initial state, and then its steps.
template <Element T>
class relayed_steps {
 public:
  relayed_steps(state_problem<T> const& p, index_t chunk)
      : steps_(p, chunk),
        heads_(p.shape.state_heads()),
        of_head_(1 + steps_.count()),
        count_(p.shape.batches * heads_ * of_head_) {}

  index_t count() const { return count_; }
  index_t batch(index_t task) const { return task / of_head_ / heads_; }
  index_t head(index_t task) const { return task / of_head_ % heads_; }
  bool is_first(index_t task) const { return task % of_head_ == 0; }
  bool is_last(index_t task) const { return task % of_head_ + 1 == of_head_; }
  index_t number(index_t task) const { return task % of_head_ - 1; }
  chunk_step step(index_t task) const { return steps_[number(task)]; }

 private:
  chunk_steps<T> const steps_;
  index_t const heads_, of_head_, count_;
};

/// Runs a problem, with `cut.sharers` threads on its chunks.
template <Element T>
void run_relay(state_problem<T> const& p, any_state_policies<accumulation_t<T>> const& policies, chunk_cut const& cut,
               detail::any_executor const& executor) {
  using columns_type = column_block<T>;
  // A state of 128 columns goes on in pieces of 4 KiB, which another processor reads within a microsecond.
  constexpr index_t features_of_part = 8;
  index_t const features = cut.layout.padded_features, slots = 2 * cut.sharers;
  relayed_steps<T> const tasks(p, cut.chunk);
  scratch memory;
  auto* const states = memory.allocate<typename columns_type::state_type>(slots);
  for (index_t i = 0; i < slots; ++i) states[i] = columns_type::allocate_state(memory, cut);
  chunk_relay relay(memory, tasks.count(), divide_up(features, features_of_part), slots);
  executor.run(cut.sharers, cost_of(p), [&](index_t) {
    scratch own_memory;
    prepared_chunk<T> chunk(own_memory, p, policies, cut.layout, cut.chunk);
    columns_type columns(own_memory, p, cut, policies, 0);
    auto const before = [&](index_t task) { return states[(task - 1) % slots]; };
    auto const after = [&](index_t task) { return states[task % slots]; };
    relay.work([&](index_t task) { return tasks.is_first(task); },
               [&](index_t task) {
                 columns.enter(tasks.batch(task), tasks.head(task));
                 if (tasks.is_first(task)) return columns.load(after(task));
                 chunk.prepare(policies, tasks.batch(task), tasks.head(task), tasks.step(task));
                 // The thread's next chunk is one that no thread has yet.
                 columns.sum(chunk, after(task), tasks.number(task), {cut.sharers, cut.sharers});
               },
               [&](index_t task, index_t part) {
                 index_t const first = part * features_of_part, last = std::min(first + features_of_part, features);
                 if (!tasks.is_first(task)) columns.join(chunk, before(task), after(task), first, last);
               },
               [&](index_t task) {
                 if (!tasks.is_first(task)) columns.answer(chunk, before(task));
                 if (tasks.is_last(task)) columns.store(after(task));
               });
  });
}

}  // namespace attend::inline ATTEND_TARGET::engine
