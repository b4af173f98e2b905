// SPDX-License-Identifier: BSD-3-Clause
// The tiled engine: many queries, keys in blocks, an online normalizer (prefill, encoders).
//
// A task is some tiles of queries of one (sequence, head group): each block of keys is brought in once and taken by all
// tiles of the task before the next one. Tasks are made by their sequence's shape alone and each writes its own rows of
// the output, so the same bits come out for any number of threads and whatever other sequences the call has.
//
// Rows of a tile are (position, head) pairs of the query heads that share a key head, heads innermost: the group shares
// each key, and the positions in a tile are close together, so that a mask hides as many whole tiles as it can. Where a
// mask has a grain (queries or heads that see alike), tiles are cut there.
//
// A task visits just the runs of keys that its tiles' masks tell, in place: what lies between them is never looked at.
//
// Where a sequence's queries are too few to make work for several threads and its keys are many (a hundred heads that
// share one latent), the keys are split too: each part leaves the state of its tiles, relative to its own maximum, and
// they are merged when the rows are written. Where there are tasks enough without it, a task takes its parts one after
// the other.
//
// Tri Dao, Daniel Y. Fu, Stefano Ermon, Atri Rudra, Christopher Re: FlashAttention, 2022 (tiling with an online
// softmax); Maxim Milakov, Natalia Gimelshein: Online normalizer calculation for softmax, 2018.
#pragma once

#include "../../core/executor.hpp"
#include "../../core/order.hpp"
#include "tile_task.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// A call's tasks, whatever its policies are.
template <Element T, KeyValueSource Source, class Access>
class tiled_run {
 public:
  using A = accumulation_t<T>;
  using task_type = task<T, Source, Access>;

  tiled_run(problem<T> const& p, Source const& source, any_policies<A> const& call, Access const& access)
      : p_(p), source_(source), call_(call), access_(access), sequences_(p.sequences.size()) {
    bool in_keys = false;
    for (index_t s = 0; s < sequences_; ++s)
      if (source.stored(s, 0) > 0) {
        in_keys = values_in_keys(source.rows(s, 0, 0), p.shape.key_dimension, p.shape.value_dimension);
        break;
      }
    cuts_ = memory_.allocate<tiling>(sequences_);
    first_task_ = memory_.allocate<index_t>(sequences_ + 1);
    first_task_[0] = 0;
    for (index_t s = 0; s < sequences_; ++s) {
      detail::sequence const sequence = p.sequences[s];
      problem_shape shape = p.shape;
      shape.queries = sequence.queries;
      shape.keys = sequence.keys;
      cuts_[s] = tiling::of(p, sequence, call.grain(shape), in_keys);
      first_task_[s + 1] = first_task_[s];
      if (!p.chosen(s)) continue;
      index_t const tasks = cuts_[s].template tasks_of_group<A>(sequence.asked()) * cuts_[s].groups;
      first_task_[s + 1] += tasks;
      parts_ += tasks * cuts_[s].parts;
      cost_.operations += 2.0 * static_cast<double>(p.shape.query_heads * sequence.asked()) *
                          static_cast<double>(sequence.keys) *
                          static_cast<double>(p.shape.key_dimension + p.shape.value_dimension);
      if (index_t const padding = p.sequences.padding(s); padding > 0)
        for (index_t head = 0; head < p.shape.query_heads; ++head) clear_rows(p, s, head, sequence.queries, padding);
    }
    tasks_ = first_task_[sequences_];
  }

  void run(detail::any_executor const& executor) {
    if (tasks_ < parts_ && tasks_ < tiling::wanted_tasks) return run_parts(executor);
    // The last tasks first: under a causal mask they are the longest, and should not be left to the end. But under a
    // window in order: what a task takes first is then what the one before it has just had.
    bool const ascending = tasks_ > 0 && task_of(tasks_ - 1).first_key() > p_.shape.keys / 2;
    bool const few_keys = ascending || call_.has_runs;
    executor.run(tasks_, cost_, [&](index_t number) {
      index_t const at = ascending ? number : tasks_ - 1 - number;
      if (tiling const& cut = cuts_[sequence_of(at)]; cut.parts > 1) {
        scratch own;
        tile_states<A> const states(own, cut, padded_dimension());
        index_t const needed = task_of(at).needed_parts();
        for (index_t part = 0; part < needed; ++part) task_of(at).run_part(part, states);
        return task_of(at).finish(needed, states);
      }
      if (!few_keys || number + 1 == tasks_) return task_of(at).run();
      task_type const next = task_of(ascending ? at + 1 : at - 1, 1);
      task_of(at).run(&next);
    });
  }

 private:
  /// Parts are tasks of their own.
  void run_parts(detail::any_executor const& executor) {
    auto* const states = memory_.allocate<tile_states<A>>(tasks_);
    index_t* const first_part = memory_.allocate<index_t>(tasks_ + 1);
    first_part[0] = 0;
    index_t merged_bytes = 0;
    for (index_t number = 0; number < tasks_; ++number) {
      tiling const& cut = cuts_[sequence_of(number)];
      new (states + number) tile_states<A>(memory_, cut, padded_dimension());
      merged_bytes += states[number].bytes();
      first_part[number + 1] = first_part[number] + cut.parts;
    }
    executor.run(parts_, cost_, [&](index_t at) {
      index_t const number =
          std::upper_bound(first_part, first_part + tasks_ + 1, at, detail::ascending{}) - first_part - 1;
      task_of(number).run_part(at - first_part[number], states[number]);
    });
    executor.run(tasks_, {.bytes = static_cast<double>(merged_bytes)}, [&](index_t number) {
      task_of(number).finish(first_part[number + 1] - first_part[number], states[number]);
    });
  }

  index_t padded_dimension() const { return round_up(p_.shape.value_dimension, simd::register_rows); }

  index_t sequence_of(index_t number) const {
    return std::upper_bound(first_task_, first_task_ + sequences_ + 1, number, detail::ascending{}) - first_task_ - 1;
  }

  [[gnu::noinline]] task_type task_of(index_t number, index_t most = tiling::max_tiles) const {
    index_t const s = sequence_of(number), in_sequence = number - first_task_[s];
    detail::sequence const sequence = p_.sequences[s];
    index_t const per_group = cuts_[s].template tasks_of_group<A>(sequence.asked());
    return task_type(p_, source_, cuts_[s], call_, access_,
                     typename task_type::place{s, sequence, in_sequence / per_group, in_sequence % per_group}, most);
  }

  problem<T> const& p_;
  Source const& source_;
  any_policies<A> const& call_;
  Access const& access_;
  index_t sequences_, parts_ = 0, tasks_ = 0;
  attend::detail::loop_cost cost_;
  scratch memory_;
  tiling* cuts_ = nullptr;
  index_t* first_task_ = nullptr;  // of each sequence
};

/// All of them, for any policies and any executor: what a program may have compiled once.
template <Element T, KeyValueSource Source, class Access>
void run_tiled_tasks(problem<T> const& p, Source const& source, any_policies<accumulation_t<T>> const& call,
                     Access const& access, detail::any_executor const& executor) {
  tiled_run(p, source, call, access).run(executor);
}

/// Runs a problem whose arguments are checked, with keys and values from a source: its head g for the
/// g-th group of query heads that share both.
template <Element T, KeyValueSource Source, class Policies, class E>
void run_tiled(problem<T> const& p, Source const& source, Policies const& policies, E& executor) {
  if (p.shape.batches == 0 || p.shape.query_heads == 0 || p.shape.queries == 0) return;
  erased_policies<accumulation_t<T>, Policies> const call(policies);
  run_tiled_tasks<T>(p, source, call, policies.access(), detail::any_executor(executor));
}

}  // namespace attend::inline ATTEND_TARGET::engine
