// SPDX-License-Identifier: BSD-3-Clause
// The tiled engine: many queries, keys in blocks, an online normalizer (prefill, encoders).
//
// A task is some tiles of queries of one (sequence, group of query heads): all tiles of the task process a block of
// keys while it is in the cache, before the next block is read. Tasks depend on the shape of their sequence alone, and
// each task writes its own rows of the output, so the results have the same bits for any number of threads and whatever
// other sequences the call has. Many threads share a task's tiles, but not its blocks of keys, which decide the bits.
//
// Rows of a tile are (position, head) pairs of the query heads that share a key head, heads innermost: the group shares
// each key, and the positions in a tile are close to each other, so that a mask hides as many whole tiles as it can.
// Where a mask has a grain (queries or heads with the same visible keys), tiles are cut there.
//
// A task reads only the runs of keys that the masks of its tiles show, in place; keys between runs are never read.
//
// Where a sequence has too few queries for several threads and many keys (a hundred heads that share one latent), the
// keys are split as well: each part stores the state of its tiles, relative to its own maximum, and the states are
// merged when the rows are written. Where there are enough tasks without splitting, a task processes its parts one
// after the other.
//
// Tri Dao, Daniel Y. Fu, Stefano Ermon, Atri Rudra, Christopher Re: FlashAttention, 2022 (tiling with an online
// softmax); Maxim Milakov, Natalia Gimelshein: Online normalizer calculation for softmax, 2018.
#pragma once

#include "../../core/executor.hpp"
#include "../../core/order.hpp"
#include "any_source.hpp"
#include "tile_task.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The tasks of a call. Its policies are behind an interface, so the class is compiled once for all of them.
template <Element T, KeyValueSource Source, class Access>
class tiled_run {
 public:
  using A = accumulation_t<T>;
  using task_type = task<T, Source, Access>;

  tiled_run(problem<T> const& p, Source const& source, any_policies<A> const& call, Access const& access)
      : p_(p), source_(source), call_(call), access_(access), sequences_(p.sequences.size()) {
    bool const in_keys = ask_first_rows(false, [&](auto const& run, index_t) {
      return values_in_keys(run, p.shape.key_dimension, p.shape.value_dimension);
    });
    cuts_ = memory_.allocate<tiling>(sequences_);
    first_task_ = memory_.allocate<index_t>(sequences_ + 1);
    first_task_[0] = 0;
    for (index_t s = 0; s < sequences_; ++s) {
      detail::sequence const sequence = p.sequences[s];
      problem_shape shape = p.shape;
      shape.queries = sequence.queries;
      shape.keys = sequence.keys;
      cuts_[s] =
          tiling::of(p, sequence, call.grain(shape), in_keys, task_type::most_block_keys(p), task_type::query_bytes(p));
      first_task_[s + 1] = first_task_[s];
      if (!p.chosen(s)) continue;
      clear_block_maxima(p, sequence);
      index_t const tasks = cuts_[s].template tasks_of_group<A>(sequence.asked()) * cuts_[s].groups;
      first_task_[s + 1] += tasks;
      most_tiles_ = std::max(most_tiles_, cuts_[s].tiles_per_task);
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
    // The last tasks run first: under a causal mask they are the longest, and a long task that begins last would leave
    // threads idle. Where threads have few tasks each, the last tasks of all heads therefore run before the others;
    // else the tasks of a head run one after the other, while its keys are in the cache. Under a window tasks run in
    // ascending order: the first keys of a task are then in the cache, since the task before it has just read them.
    bool const ascending = tasks_ > 0 && task_of(tasks_ - 1).first_key() > p_.shape.keys / 2;
    bool const few_keys = ascending || call_.has_runs;
    index_t const workers = executor.workers_for(cost_);
    bool const few_tasks = workers > 1 && tasks_ < few_tasks_of_thread * workers;
    index_t const of_head = few_tasks && !few_keys ? tasks_of_each_head() : tasks_;
    index_t const share = few_tasks && !few_keys && parts_ == tasks_ ? tiles_of_share(workers) : most_tiles_;
    index_t const shares = divide_up(most_tiles_, share);
    executor.run(tasks_ * shares, cost_, [&](index_t number) {
      index_t const first_tile = (shares - 1 - number % shares) * share;
      number /= shares;
      index_t const place = ascending ? number : tasks_ - 1 - number, heads = tasks_ / of_head;
      index_t const at = place % heads * of_head + place / heads;
      if (shares > 1) return task_of(at).run_share({first_tile, first_tile + share});
      if (tiling const& cut = cuts_[sequence_of(at)]; cut.parts > 1) {
        scratch own;
        tile_states<A> const states = states_of(own, at);
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
  /// With so many tasks for each thread, the end of a call, where some threads have none, is a few percent of it in any
  /// order.
  static constexpr index_t few_tasks_of_thread = 16;

  /// The number of tiles that a thread processes at a time, where there are few tasks for so many threads. A block that
  /// is copied is worth copying for two tiles, and what a matrix unit reads, which is packed, for all of a task.
  index_t tiles_of_share(index_t workers) const {
    if (task_type::uses_pairs(p_)) return most_tiles_;
    index_t const tiles =
        divide_up(most_tiles_, divide_up(few_tasks_of_thread * workers, std::max<index_t>(tasks_, 1)));
    return std::min(std::max<index_t>(tiles, copies_blocks() ? 2 : 1), most_tiles_);
  }

  /// Whether tasks copy the keys and values that they read (key_block.hpp).
  bool copies_blocks() const {
    if constexpr (task_type::reads_in_place)
      return ask_first_rows(true, [&](auto const& run, index_t stored) {
        return run.count < stored || far_apart<A>(run.key_stride, p_.shape.key_dimension) ||
               far_apart<A>(run.value_stride, p_.shape.value_dimension);
      });
    else
      return true;
  }

  /// asks(run, stored) of the first run of rows, of the first sequence that has any; `otherwise` if none has.
  template <class Asks>
  bool ask_first_rows(bool otherwise, Asks const& asks) const {
    for (index_t s = 0; s < sequences_; ++s)
      if (index_t const stored = source_.stored(s, 0); stored > 0) return asks(source_.rows(s, 0, 0), stored);
    return otherwise;
  }

  /// Runs each part of each task as a task of its own.
  void run_parts(detail::any_executor const& executor) {
    auto* const states = memory_.allocate<tile_states<A>>(tasks_);
    index_t* const first_part = memory_.allocate<index_t>(tasks_ + 1);
    first_part[0] = 0;
    index_t merged_bytes = 0;
    for (index_t number = 0; number < tasks_; ++number) {
      new (states + number) tile_states<A>(states_of(memory_, number));
      merged_bytes += states[number].bytes();
      first_part[number + 1] = first_part[number] + cuts_[sequence_of(number)].parts;
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

  /// The number of tasks of a group of heads, where all groups of all sequences have as many; otherwise of all
  /// together.
  index_t tasks_of_each_head() const {
    for (index_t s = 0; s < sequences_; ++s)
      if (first_task_[s + 1] - first_task_[s] != first_task_[1] || cuts_[s].groups != cuts_[0].groups) return tasks_;
    return first_task_[1] / cuts_[0].groups;
  }

  tile_states<A> states_of(scratch& memory, index_t number) const {
    index_t const s = sequence_of(number);
    return {memory, cuts_[s], padded_dimension(), p_.statistics, s, p_.sequences[s].keys};
  }

  index_t padded_dimension() const { return task_type::padded_value_dimension(p_); }

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
  index_t sequences_, parts_ = 0, tasks_ = 0, most_tiles_ = 1;
  attend::detail::loop_cost cost_;
  scratch memory_;
  tiling* cuts_ = nullptr;
  index_t* first_task_ = nullptr;  // of each sequence
};

/// Runs all tasks, for any policies and any executor: a program may compile this function once.
template <Element T, KeyValueSource Source, class Access>
void run_tiled_tasks(problem<T> const& p, Source const& source, any_policies<accumulation_t<T>> const& call,
                     Access const& access, detail::any_executor const& executor) {
  tiled_run(p, source, call, access).run(executor);
}

/// Runs a problem whose arguments are checked, with keys and values from a source. Head g of the source serves the g-th
/// group of query heads that share a key head and a value head.
template <Element T, KeyValueSource Source, class Policies, class E>
void run_tiled(problem<T> const& p, Source const& source, Policies const& policies, E& executor) {
  if (p.shape.batches == 0 || p.shape.query_heads == 0 || p.shape.queries == 0) return;
  erased_policies<accumulation_t<T>, Policies> const call(policies);
  run_tiled_tasks<T>(p, source_of_engine(source), call, policies.access(), detail::any_executor(executor));
}

}  // namespace attend::inline ATTEND_TARGET::engine
