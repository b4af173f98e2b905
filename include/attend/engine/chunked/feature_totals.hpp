// SPDX-License-Identifier: BSD-3-Clause
// Sums over all tokens of a head, for features that need them before the first state is computed
// (policy/feature/feature.hpp). They are computed once for a call, before the tasks of its heads.
//
//   round r    totals of part p of a head's tokens += add(r, its tokens); the totals of all parts of a head are then
//              merged, in the order of the parts
//
// How a head is cut into parts depends on the length of the sequence alone: so several threads may work on one head,
// and the results have the same bits for any number of threads.
//
// Cost: queries and keys are read, and their features computed, once for each round that asks for them. Memory: the
// totals of each part.
#pragma once

#include <new>
#include <type_traits>

#include "../../core/executor.hpp"
#include "../../core/scratch.hpp"
#include "state_rows.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// Computes the totals of all heads; those of a key head are at index batch * key heads + key head.
template <Element T, TotalledFeatures F, class E>
auto feature_totals(state_problem<T> const& p, F const& features, scratch& memory, E& executor) {
  using A = accumulation_t<T>;
  using totals = typename F::template totals_of<A>;
  static_assert(std::is_trivially_destructible_v<totals>);
  constexpr index_t part_tokens = 4096, group_size = 64;
  constexpr double operations = 40;  // for each element of a row: an exponential, a product, a sum
  index_t const heads = p.shape.batches * p.shape.key_heads, dimension = p.shape.key_dimension;
  index_t const parts = std::max<index_t>(divide_up(std::max(p.shape.queries, p.shape.keys), part_tokens), 1);
  // The totals of the first part of each head become those of the head.
  totals* const all = memory.allocate<totals>(parts * heads);
  for (index_t i = 0; i < parts * heads; ++i) new (all + i) totals(memory, dimension);
  if (dimension == 0) return all;

  auto const add = [&](int round, token_side side, index_t head, index_t part) {
    if (!F::asks(round, side)) return;
    tensor_view<T const, 4> const& tensor = side == token_side::key ? p.key : p.query;
    index_t const batch = head / p.shape.key_heads, own = head % p.shape.key_heads;
    index_t const last = std::min((part + 1) * part_tokens, tensor.extent(2));
    scratch memory_of_part;
    A* const raw = memory_of_part.allocate<A>(group_size * round_up(dimension, simd::width<A>));
    for (index_t token = part * part_tokens; token < last; token += group_size)
      features.add(round,
                   load_raw(tensor, feature_tokens{side, batch, own, token, token, own, p.shape.key_heads},
                            std::min(group_size, last - token), raw),
                   all[head], all[part * heads + head]);
  };
  double const numbers = static_cast<double>(p.shape.queries + p.shape.keys) * static_cast<double>(heads * dimension);
  for (int round = 0; round < F::rounds; ++round) {
    attend::detail::parallel_for(executor, heads * parts, {operations * numbers}, [&](index_t task) {
      add(round, token_side::key, task / parts, task % parts);
      add(round, token_side::query, task / parts, task % parts);
    });
    for (index_t i = heads; i < parts * heads; ++i) all[i % heads].join(round, all[i]);
  }
  return all;
}

}  // namespace attend::inline ATTEND_TARGET::engine
