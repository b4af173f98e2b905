// SPDX-License-Identifier: BSD-3-Clause
// Runs a problem with several threads on each head: runs of consecutive chunks are tasks, of which only the state goes
// from one to the next (chunk_relay.hpp).
//
//   begin   after(k)_j, P_ij                                         what needs no state, of each chunk of the run
//   pass    w_j = v_j, or as the delta rule's system says            chunk after chunk, a part of the state at a time
//           S_{c+1} = a_c S_c + sum_j after(k)_j w_j^T
//   end     o_i = before(q)_i^T S_c + sum_{j <= i} P_ij w_j          for each chunk
//
// These are the operations of the loop over chunks (chunked.hpp), so the results have the same bits, whatever the
// number of threads and the length of the runs.
//
// Only the passing of one part is serial. A chunk's sum over tokens is computed there, in registers: stored before, it
// would be read again from the level-2 cache, which takes as long. The longer the runs, the rarer a state moves between
// processors: once for a run, of which all states but the last stay in the thread's own cache.
//
// A delta rule reads all features of a value column at once, but its columns do not read each other: there a part is a
// panel of columns. Of the 3 F D + (C + 1) / 2 (2 F + 2 D) multiplications of a token, passing takes
// 2 F D + (C - 1) / 2 D. For F = D = 128 and C = 32 that is 0.60 of them, and 0.08 for each of 8 panels, so that 13
// threads are busy. Runs that are combined as matrices (S after a run is M S before it + B) would pass on nothing but
// F F D multiplications, but each run would carry M through its chunks beside the state and solve all of them twice:
// 2.2 times the operations, which less than 30 threads do not make up for.
//
// Memory: for each thread, as many states as a run has chunks, one more, and the numbers of those chunks.
#pragma once

#include "chunk_relay.hpp"
#include "column_block.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The tasks of a problem: for each head one that reads its initial state, and then runs of `run` steps, of which the
/// last may be shorter. Heads alternate: first come the first tasks of all heads, then the second ones.
template <Element T>
class relayed_steps {
 public:
  relayed_steps(state_problem<T> const& p, index_t chunk, index_t run)
      : steps_(p, chunk),
        heads_(p.shape.state_heads()),
        run_(run),
        of_head_(1 + divide_up(steps_.count(), run)),
        rows_(p.shape.batches * heads_) {}

  index_t count() const { return rows_ * of_head_; }
  /// The heads of all batches.
  index_t rows() const { return rows_; }
  index_t batch(index_t task) const { return task % rows_ / heads_; }
  index_t head(index_t task) const { return task % rows_ % heads_; }
  bool is_first(index_t task) const { return task < rows_; }
  bool is_last(index_t task) const { return task + rows_ >= count(); }
  /// The first step of a task, and how many it has.
  index_t first_step(index_t task) const { return (task / rows_ - 1) * run_; }
  index_t steps_of(index_t task) const {
    return is_first(task) ? 0 : std::min(run_, steps_.count() - first_step(task));
  }
  chunk_step step(index_t number) const { return steps_[number]; }

 private:
  chunk_steps<T> const steps_;
  index_t const heads_, run_, of_head_, rows_;
};

/// What a thread keeps of the run of chunks that it works on.
template <Element T>
class relayed_run {
 public:
  using A = accumulation_t<T>;
  using columns_type = column_block<T>;
  using state_type = typename columns_type::state_type;

  relayed_run(scratch& memory, state_problem<T> const& p, any_state_policies<A> const& policies, chunk_cut const& cut,
              relayed_steps<T> const& tasks)
      : unit_(p, policies),
        policies_(policies),
        tasks_(tasks),
        run_(cut.run),
        // After a run, the thread goes on with one that no thread has yet.
        to_next_run_(cut.sharers * cut.run),
        chunks_(memory.allocate<chunk_type>(run_)),
        columns_(memory.allocate<columns_type>(run_)),
        states_(memory.allocate<state_type>(run_)) {
    static_assert(std::is_trivially_destructible_v<chunk_type> && std::is_trivially_destructible_v<columns_type>);
    for (index_t c = 0; c < run_; ++c) {
      new (chunks_ + c) chunk_type(memory, p, policies, cut.layout, cut.chunk);
      new (columns_ + c) columns_type(memory, p, cut, policies, 0);
      // The state after the run is one that the next thread reads.
      if (c + 1 < run_) states_[c] = columns_type::allocate_state(memory, cut);
    }
  }

  /// Begins a task, which goes from the state `before` to the state `after`.
  void begin(index_t task, state_type const& before, state_type const& after) {
    count_ = tasks_.steps_of(task);
    before_ = before;
    after_ = after;
    columns_[0].enter(tasks_.batch(task), tasks_.head(task));
    if (tasks_.is_first(task)) return columns_[0].load(after_);
    for (index_t c = 0; c < count_; ++c) {
      index_t const step = tasks_.first_step(task) + c;
      columns_[c].enter(tasks_.batch(task), tasks_.head(task));
      chunks_[c].prepare(policies_, tasks_.batch(task), tasks_.head(task), tasks_.step(step), unit_);
      columns_[c].begin(chunks_[c], step, {to_next_run_, to_next_run_}, unit_);
    }
  }

  /// Passes on a part of the state.
  void pass(index_t part) {
    for (index_t c = 0; c < count_; ++c) columns_[c].pass(chunks_[c], state_before(c), state_after(c), part);
  }

  /// Answers the queries, and writes the last state of a head.
  void end(index_t task) {
    for (index_t c = 0; c < count_; ++c) columns_[c].answer(chunks_[c], state_before(c), unit_);
    if (tasks_.is_last(task)) columns_[0].store(after_);
  }

 private:
  using chunk_type = prepared_chunk<T>;

  state_type const& state_before(index_t c) const { return c == 0 ? before_ : states_[c - 1]; }
  state_type const& state_after(index_t c) const { return c + 1 == count_ ? after_ : states_[c]; }

  task_unit<T> unit_;
  any_state_policies<A> const& policies_;
  relayed_steps<T> const& tasks_;
  index_t const run_, to_next_run_;
  chunk_type* const chunks_;
  columns_type* const columns_;
  state_type* const states_;
  state_type before_{}, after_{};
  index_t count_ = 0;
};

/// Runs a problem, with `cut.sharers` threads on its chunks.
template <Element T>
void run_relay(state_problem<T> const& p, any_state_policies<accumulation_t<T>> const& policies, chunk_cut const& cut,
               detail::any_executor const& executor) {
  using columns_type = column_block<T>;
  relayed_steps<T> const tasks(p, cut.chunk, cut.run);
  // A slot is needed until the task after the next one of its head begins; some more let threads run ahead.
  index_t const rows = tasks.rows(), slots = rows + 2 * cut.sharers;
  scratch memory;
  auto* const states = memory.allocate<typename columns_type::state_type>(slots);
  for (index_t i = 0; i < slots; ++i) states[i] = columns_type::allocate_state(memory, cut);
  chunk_relay relay(memory, tasks.count(), rows, cut.parts(), slots);
  executor.run(cut.sharers, cost_of(p), [&](index_t) {
    scratch own_memory;
    relayed_run<T> run(own_memory, p, policies, cut, tasks);
    relay.work([&](index_t task) { run.begin(task, states[(task + slots - rows) % slots], states[task % slots]); },
               [&](index_t, index_t part) { run.pass(part); }, [&](index_t task) { run.end(task); });
  });
}

}  // namespace attend::inline ATTEND_TARGET::engine
