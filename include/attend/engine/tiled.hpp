// The tiled engine: many queries, keys in blocks, an online normalizer (prefill, encoders).
//
// A task is some tiles of queries of one (sequence, head group): each block of keys is brought in once and taken by all
// tiles of the task before the next one. Tasks are made by shape alone and each writes its own rows of the output, so
// the same bits come out for any number of threads.
//
// Rows of a tile are (position, head) pairs of the query heads that share a key head, heads innermost: the group shares
// each key, and the positions in a tile are close together, so that a mask hides as many whole tiles as it can. Where a
// mask has a grain (queries or heads that see alike), tiles are cut there.
//
// A task visits just the runs of keys that its tiles' masks tell, in place: what lies between them is never looked at.
//
// Where queries are too few to make work for several threads and keys are many (a hundred heads that share one latent),
// the keys are split too: a task takes one part of them and leaves the state of its tiles, and a last pass merges the
// parts, each relative to its own maximum, and writes the rows.
//
// Tri Dao, Daniel Y. Fu, Stefano Ermon, Atri Rudra, Christopher Re: FlashAttention, 2022 (tiling with an online
// softmax); Maxim Milakov, Natalia Gimelshein: Online normalizer calculation for softmax, 2018.
#pragma once

#include "../core/executor.hpp"
#include "tile_task.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Runs a problem whose arguments are checked, with keys and values from a source: its head g for the g-th group of
/// query heads that share both.
template <Element T, KeyValueSource Source, class Steering, class E>
void run_tiled(problem<T> const& p, Source const& source, Steering const& steer, E& executor) {
  using task_type = task<T, Source, Steering>;
  using A = accumulation_t<T>;
  if (p.shape.batches == 0 || p.shape.query_heads == 0 || p.shape.queries == 0) return;
  index_t const sequences = p.sequences.size();
  bool const in_keys = sequences > 0 && source.stored(0, 0) > 0 &&
                       values_in_keys(source.rows(0, 0, 0), p.shape.key_dimension, p.shape.value_dimension);
  tiling cut = tiling::of(p, attend::detail::grain_of(steer.mask, p.shape), in_keys);

  scratch memory;
  index_t* const first_task = memory.take<index_t>(sequences + 1);
  first_task[0] = 0;
  auto const tasks_in_group = [&](detail::sequence const& s) {
    return divide_up(cut.tiles_of<A>(s.asked(), cut.heads_together), cut.tiles_per_task);
  };
  for (index_t s = 0; s < sequences; ++s) {
    detail::sequence const sequence = p.sequences[s];
    first_task[s + 1] = first_task[s] + tasks_in_group(sequence) * cut.groups;
    if (index_t const padding = p.sequences.padding(s); padding > 0)
      for (index_t head = 0; head < p.shape.query_heads; ++head) clear_rows(p, s, head, sequence.queries, padding);
  }

  index_t const tasks = first_task[sequences];
  auto const task_of = [&](index_t number, index_t most = tiling::most_tiles) {
    index_t const s = std::upper_bound(first_task, first_task + sequences + 1, number) - first_task - 1;
    detail::sequence const sequence = p.sequences[s];
    index_t const in_sequence = number - first_task[s], per_group = tasks_in_group(sequence);
    return task_type(p, source, cut, steer,
                     typename task_type::place{number, s, sequence, in_sequence / per_group, in_sequence % per_group},
                     most);
  };
  serial alone;
  auto const for_tasks = [&](index_t count, auto const& function) {
    if (cut.small)
      detail::parallel_for(alone, count, function);
    else
      detail::parallel_for(executor, count, function);
  };

  cut.split_keys(tasks, p.shape.keys);
  if (cut.parts == 1) {
    // The last tasks first: under a causal mask they are the longest, and should not be left to the end. But under a
    // window in order: what a task takes first is then what the one before it has just had.
    bool const ascending = tasks > 0 && task_of(tasks - 1).first_key() > p.shape.keys / 2;
    bool const few_keys = ascending || detail::HasRuns<typename Steering::mask_type>;
    for_tasks(tasks, [&](index_t number) {
      index_t const at = ascending ? number : tasks - 1 - number;
      if (!few_keys || number + 1 == tasks) return task_of(at).run();
      task_type const next = task_of(ascending ? at + 1 : at - 1, 1);
      task_of(at).run(&next);
    });
    return;
  }
  tile_states<A> const states(memory, tasks, cut, round_up(p.shape.value_dimension, simd::register_rows));
  for_tasks(tasks * cut.parts,
            [&](index_t number) { task_of(number / cut.parts).run_part(number % cut.parts, states); });
  for_tasks(tasks, [&](index_t number) { task_of(number).finish(states); });
}

}  // namespace attend::inline ATTEND_TARGET::engine
