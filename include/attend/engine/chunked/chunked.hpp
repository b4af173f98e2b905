// SPDX-License-Identifier: BSD-3-Clause
// The chunked engine: a state S [feature][value column] carried through a sequence.
//
//   S_t = diag(a_t) S_{t-1} + k_t w_t^T      w_t = v_t, or rate_t v_t, or rate_t (v_t - (diag(a_t) S_{t-1})^T k_t)
//   o_t = q_t^T S_t                          causal;   o_i = q_i^T S_n after all n keys otherwise
//
// A chunk of C tokens costs, for each value column and token, one product with the state (two for a delta rule), C / 2
// products with the chunk's own tokens (as many again to solve the delta rule's system), and one to write the state:
//
//   2 (2 F D + (C + 1) / 2 (F + D)) operations a token for F features and D value columns, additive
//   2 (3 F D + (C + 1) / 2 (2 F + 2 D)) for a delta rule (C - 1 for its system)
//
// The chunks of a head are processed one after the other; heads are tasks. Where there are more threads than heads, or
// the number of heads is not a multiple of theirs, threads share a head:
//
//   usually         each has runs of chunks of its own, and the state goes from run to run (relayed_chunks.hpp)
//   a large state   stays where it is, and that of a delta rule between two threads: each carries some of its value
//                   columns, and numbers that do not depend on value columns are computed once (chunk_pipeline.hpp)
//
// Every number is computed in the same way by any thread, so the results have the same bits for any number of threads.
// A call with a single token has its own loop (state_step.hpp).
//
// A matrix unit multiplies bfloat16 (pair_chunk.hpp), unless there are features, decays of features or a delta rule.
//
// Working memory is a state and a few arrays of a chunk for each thread, or some states and the arrays of as many
// chunks where threads share a head, whatever the length of the sequence.
//
// Zhen Qin et al.: Lightning Attention-2, 2024 (within chunks as a masked product, across them as a state); Songlin
// Yang, Bailin Wang, Yu Zhang, Yikang Shen, Yoon Kim: Parallelizing Linear Transformers with the Delta Rule over
// Sequence Length, 2024 (chunks of a delta rule as a triangular system; here it is solved against the state at hand,
// not inverted).
#pragma once

#include <array>
#include <new>
#include <type_traits>

#include "../../core/executor.hpp"
#include "chunk_pipeline.hpp"
#include "erased_state_policies.hpp"
#include "feature_totals.hpp"
#include "relayed_chunks.hpp"
#include "state_step.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Calls run(policies) with the policies of one task: those of the call, unless its feature map follows the sequence
/// and makes policies for each head.
template <Element T, class Run>
void with_policies(state_problem<T> const& p, any_state_call<T> const& call, index_t batch, index_t head,
                   bool writes_sum, index_t max_tokens, Run const& run) {
  using A = accumulation_t<T>;
  if (!call.follows) return run(call.policies);
  rows_of<T> const query = rows_of_head(p.query, batch, p.query_head(head * p.heads_per_group()), 0);
  rows_of<T> const key = rows_of_head(p.key, batch, p.key_head(head), 0);
  bool const has_sum = p.shape.features > 0;
  followed_sequence<T> const sequence{
      query.data,
      key.data,
      query.stride,
      key.stride,
      p.shape.queries,
      p.shape.keys,
      p.shape.key_dimension,
      p.shape.features,
      p.causal,
      max_tokens,
      has_sum && p.initial_sum.data() ? &p.initial_sum(batch, head, 0) : nullptr,
      has_sum && writes_sum && p.final_sum.data() ? &p.final_sum(batch, head, 0) : nullptr};
  auto const run_task = [](void* context, any_state_policies<A> const& policies) {
    (*static_cast<Run const*>(context))(policies);
  };
  call.follow(sequence, batch * p.shape.key_heads + p.key_head(head), run_task,
              const_cast<void*>(static_cast<void const*>(&run)));
}

/// Runs a problem whose tokens are steps of their own: it has only one, or is to have the bits of single tokens.
template <Element T>
void run_single_tokens(state_problem<T> const& p, any_state_call<T> const& call, detail::any_executor const& executor) {
  using A = accumulation_t<T>;
  state_shape const& s = p.shape;
  bool const one = s.keys == 1 && s.queries == 1;
  // A task has several consecutive heads, so that it can prefetch the state of the next head.
  index_t const heads = s.batches * s.state_heads(), group_size = one ? 8 : 1;
  executor.run(divide_up(heads, group_size), cost_of(p), [&](index_t number) {
    state_step<T> step(p);
    for (index_t at = number * group_size; at < std::min(heads, (number + 1) * group_size); ++at) {
      index_t const batch = at / s.state_heads(), head = at % s.state_heads();
      with_policies(p, call, batch, head, true, 1, [&](any_state_policies<A> const& policies) {
        one ? step.run(policies, batch, head) : step.run_each(policies, batch, head);
      });
    }
  });
}

/// Runs a problem with several threads on each head: line l has heads l, l + lines, and so on.
template <Element T>
void run_pipeline(state_problem<T> const& p, any_state_policies<accumulation_t<T>> const& policies,
                  chunk_cut const& cut, detail::any_executor const& executor) {
  using chunk_type = prepared_chunk<T>;
  using columns_type = column_block<T>;
  static_assert(std::is_trivially_destructible_v<chunk_type> && std::is_trivially_destructible_v<columns_type>);
  index_t const heads = p.shape.batches * p.shape.state_heads();
  // Each block may be at a chunk of its own, and as many chunks again may be prepared ahead.
  pipeline_size const size{cut.lines, cut.column_blocks, 2 * cut.column_blocks};
  scratch memory;
  chunk_type* const chunks = memory.allocate<chunk_type>(size.lines * size.slots);
  for (index_t i = 0; i < size.lines * size.slots; ++i)
    new (chunks + i) chunk_type(memory, p, policies, cut.layout, cut.chunk);
  columns_type* const columns = memory.allocate<columns_type>(size.lines * size.blocks);
  auto* const states = memory.allocate<typename columns_type::state_type>(size.lines * size.blocks);
  for (index_t i = 0; i < size.lines * size.blocks; ++i) {
    new (columns + i) columns_type(memory, p, cut, policies, i % size.blocks * cut.columns);
    states[i] = columns_type::allocate_state(memory, cut);
  }

  chunk_steps<T> const steps(p, cut.chunk);
  // A head without tokens still has one step, in which its initial state becomes its final state.
  index_t const of_head = std::max<index_t>(steps.count(), 1);
  auto const count = [&](index_t line) { return divide_up(heads - line, size.lines) * of_head; };
  auto const locate = [&](index_t line, index_t step) {
    index_t const head = line + step / of_head * size.lines;
    return std::array{head / p.shape.state_heads(), head % p.shape.state_heads(), step % of_head};
  };
  auto const prepare = [&](index_t line, index_t step, index_t slot) {
    auto const at = locate(line, step);
    task_unit<T> unit(p, policies);
    chunks[slot].prepare(policies, at[0], at[1], steps.count() > 0 ? steps[at[2]] : chunk_step{}, unit);
  };
  auto const advance = [&](index_t line, index_t block, index_t step, index_t slot) {
    auto const at = locate(line, step);
    columns_type& mine = columns[line * size.blocks + block];
    auto const& state = states[line * size.blocks + block];
    mine.enter(at[0], at[1]);
    if (at[2] == 0) mine.load(state);
    task_unit<T> unit(p, policies);
    mine.advance(chunks[slot], state, at[2], {1, size.slots}, unit);
    if (at[2] + 1 == of_head) mine.store(state);
  };
  chunk_pipeline pipeline(memory, size, count, prepare, advance);
  executor.run(size.lines * size.blocks, cost_of(p), [&](index_t task) { pipeline.work(task % size.lines); });
}

/// Runs a problem in chunks.
template <Element T>
void run_chunks(state_problem<T> const& p, any_state_call<T> const& call, index_t workers,
                detail::any_executor const& executor) {
  using A = accumulation_t<T>;
  state_shape const& s = p.shape;
  any_state_policies<A> const& kinds = call.policies;
  // Each block of columns reads the initial sum of keys: where the final sum may be in the same memory, a head has one
  // block, which would otherwise read what another has written.
  bool const sum_in_place = p.final_sum.data() && p.initial_sum.data();
  // Features that follow the sequence may have a decay for each feature.
  decay_kind const kind = call.follows ? decay_kind::vector : kinds.kind;
  index_t const depth = multiplies_by_kernel(kinds) ? s.key_dimension : s.features;
  // Products within a chunk take a matrix unit little time beside what vectors do once for each chunk, to the state.
  bool const short_chunks = (p.causal && !uses_matrix_unit(p, kinds)) || kinds.reads_state;
  index_t const usual =
      short_chunks ? chunk_cut::chunk_for(s.features, depth, s.value_dimension, kind) : chunk_cut::longest_usual;
  head_sharing const sharing = call.follows        ? head_sharing::value_columns
                               : kinds.reads_state ? head_sharing::solved_chunks
                                                   : head_sharing::added_chunks;
  chunk_cut const cut = chunk_cut::of(p, usual, kinds.whole_rows || sum_in_place, sharing, workers);
  if (cut.sharers > 0) return run_relay(p, kinds, cut, executor);
  if (cut.lines > 0) return run_pipeline(p, kinds, cut, executor);
  chunk_steps<T> const steps(p, cut.chunk);
  executor.run(s.batches * s.state_heads() * cut.column_blocks, cost_of(p), [&](index_t number) {
    index_t const head = number / cut.column_blocks, block = number % cut.column_blocks;
    index_t const batch = head / s.state_heads(), state_head = head % s.state_heads();
    with_policies(p, call, batch, state_head, block == 0, cut.chunk, [&](any_state_policies<A> const& policies) {
      scratch memory;
      prepared_chunk<T> chunk(memory, p, policies, cut.layout, cut.chunk);
      column_block<T> columns(memory, p, cut, policies, block * cut.columns);
      auto const state = column_block<T>::allocate_state(memory, cut);
      columns.enter(batch, state_head);
      columns.load(state);
      task_unit<T> unit(p, policies);
      for (index_t step = 0; step < steps.count(); ++step) {
        chunk.prepare(policies, batch, state_head, steps[step], unit);
        columns.advance(chunk, state, step, {1, 1}, unit);
      }
      columns.store(state);
    });
  });
}

/// Runs all tasks, for any policies and any executor: a program may compile this function once. `workers` is the number
/// of threads that the executor has for them.
template <Element T>
void run_chunked_tasks(state_problem<T> const& p, any_state_call<T> const& call, index_t workers,
                       detail::any_executor const& executor) {
  bool const one = p.shape.keys == 1 && p.shape.queries == 1;
  if ((one || (p.token_by_token && p.shape.keys > 0)) && p.shape.value_dimension > 0)
    run_single_tokens(p, call, executor);
  else
    run_chunks(p, call, workers, executor);
}

/// Runs a problem whose arguments are checked.
template <Element T, class Policies, class E>
void run_chunked(state_problem<T> const& p, Policies const& policies, E& executor) {
  if (p.shape.batches == 0 || p.shape.state_heads() == 0) return;
  scratch memory;
  auto const* const totals = [&] {
    if constexpr (TotalledFeatures<typename Policies::features_type>)
      return p.causal ? nullptr : feature_totals(p, policies.features, memory, executor);
    else
      return static_cast<void const*>(nullptr);
  }();
  erased_state_policies<accumulation_t<T>, Policies> const erased(policies);
  erased_state_call<T, Policies,
                    std::remove_const_t<std::remove_pointer_t<std::remove_const_t<decltype(totals)>>>> const
      call(policies, erased, totals);
  run_chunked_tasks<T>(p, call, detail::workers_for(executor, cost_of(p)), detail::any_executor(executor));
}

}  // namespace attend::inline ATTEND_TARGET::engine
