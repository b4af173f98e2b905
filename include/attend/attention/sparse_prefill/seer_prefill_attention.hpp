// SPDX-License-Identifier: BSD-3-Clause
// SeerAttention in prefill: a learned gate says which blocks of keys a block of queries sees.
//
//   Q_I  = (mean of the queries of block I) W_q                          W_q [dimension, gate dimension]
//   K_J  = [max | min | mean of the keys of block J] W_k                 W_k [3 * dimension, gate dimension]
//   G_IJ = softmax over J <= I of rotated Q_I . rotated K_J / sqrt(gate dimension)
//   list of I = the blocks with the largest G_IJ, or all with G_IJ > threshold; its own in any case, and counted
//
// Queries and keys of the gate are those before rotary positions; Q and K are rotated for the position at which their
// block begins. Attention over the lists is softmax_attention(q, k, v, o, block_sparse{table} & causal{}), with the
// rotated ones. Positions are aligned at the last token; where blocks of queries are not aligned with those of keys, a
// block of queries has two of its own. Ties go to the lower block.
//
//   query [batch, query head, query, dimension], key [batch, key head, key, dimension]
//   query_weight [query head, ..], key_weight [key head, ..], of the accumulation type
//
// Cost: queries and keys are read once, and 2 * gate dimension operations for each pair of blocks.
//
// Yizhao Gao et al.: SeerAttention: Learning Intrinsic Sparse Attention in Your LLMs, 2024.
#pragma once

#include "../../call/plan.hpp"
#include "../../policy/mask/block_sparse.hpp"
#include "../../policy/mask/causal.hpp"
#include "../../policy/position/rotary.hpp"
#include "../../select/block_gate.hpp"
#include "../../simd/mean.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Says how many tokens a block has, and how many blocks a list has or, with top = 0, the least weight of the gate.
struct seer_prefill_options {
  index_t block = 64;
  index_t top = 0;
  double threshold = 5e-3;
};

}  // namespace systems

namespace detail {

template <class A>
void check_gate_weight(char const* argument, tensor_view<A const, 3> const& weight, index_t heads, index_t rows,
                       char const* as) {
  check_view(argument, weight);
  check_extent(argument, "heads", weight.extent(0), heads, as);
  check_extent(argument, "rows", weight.extent(1), rows, as);
}

inline void check_seer_options(seer_prefill_options const& settings) {
  if (settings.block < 1 || settings.block >= token_limit)
    fail("seer_prefill_options", "expected blocks of 1 to ", token_limit - 1, " tokens, got ", settings.block);
  if (settings.top < 0) fail("seer_prefill_options", "expected at least 0 blocks, got ", settings.top);
  if (!(settings.threshold >= 0 && settings.threshold <= 1))
    fail("seer_prefill_options", "expected a threshold from 0 to 1, got ", settings.threshold);
}

}  // namespace detail

namespace systems {

/// Fills `table` with the lists that the gate chooses, one for each query head; shapes stand at the beginning of this
/// file. The table's storage is kept from call to call. Option: executor.
///
/// Throws argument_error, before anything is written, where shapes, strides or the choice do not fit.
///
///     rotary const rotation(rotary_frequencies(128));
///     seer_prefill_blocks(q, k, head_matrices, head_matrices, rotation, table, {.block = 64, .top = 16});
///     softmax_attention(q, k, v, o, block_sparse{table} & causal{});
template <TensorArgument Query, TensorArgument Key, TensorArgument QueryWeight, TensorArgument KeyWeight, class Angles,
          class... Options>
void seer_prefill_blocks(Query const& query, Key const& key, QueryWeight const& query_weight,
                         KeyWeight const& key_weight, rotary<Angles> const& rotation, block_table& table,
                         seer_prefill_options const& settings, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Query const>;
  using A = accumulation_t<T>;
  call::allows<option::executor>::check<Options...>();
  static_assert(std::same_as<element_of_t<Key const>, T>, "attend: query and key must have one element type");
  static_assert(std::same_as<element_of_t<QueryWeight const>, A> && std::same_as<element_of_t<KeyWeight const>, A>,
                "attend: weights of a gate have the accumulation type: float, or double for tensors of double");
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key));
  tensor_view<A const, 3> const w_q = raise<3>(view_of(query_weight)), w_k = raise<3>(view_of(key_weight));
  problem_shape const shape = call::checked_shape<T>(q, k);
  detail::check_gate_weight("query_weight", w_q, shape.query_heads, shape.key_dimension, "query");
  detail::check_gate_weight("key_weight", w_k, shape.key_heads, 3 * shape.key_dimension, "key");
  detail::check_extent("key_weight", "gate dimension", w_k.extent(2), w_q.extent(2), "query_weight");
  detail::check_seer_options(settings);
  index_t const shift = shape.keys - shape.queries, gate_dimension = w_q.extent(2);
  block_grid const grid{shape.batches, shape.query_heads, shape.queries, shape.keys, settings.block, settings.block};
  detail::block_gate<A> const gate{grid, shape.key_heads, gate_dimension, settings.top, settings.threshold};
  if (shape.keys > 0 && shape.queries > 0)
    rotation.check_queries(shape.batches, shape.queries, {std::min<index_t>(shift, 0), shape.keys - 1}, gate_dimension);
  auto& executor = call::executor_of(options...);
  table.reset(grid, gate.most());

  scratch memory;
  auto const rows_of = [&](index_t heads, index_t blocks) {
    return memory.allocate<A>(shape.batches * heads * blocks * gate_dimension);
  };
  A* const gate_queries = rows_of(shape.query_heads, grid.query_blocks());
  A* const gate_keys = rows_of(shape.key_heads, grid.key_blocks());
  index_t const width = shape.key_dimension;
  detail::gate_rows<T>(
      q, w_q, rotation, settings.block, executor,
      [&](engine::rows_of<T> const& rows, index_t count, A* to) {
        simd::mean_of_rows<T>([&](index_t j) { return rows.row(j); }, count, width, to);
      },
      [&](index_t block) { return block * settings.block + shift; }, gate_queries);
  detail::gate_rows<T>(
      k, w_k, rotation, settings.block, executor,
      [&](engine::rows_of<T> const& rows, index_t count, A* to) {
        detail::pool_extremes_and_mean(rows, count, width, to);
      },
      [&](index_t block) { return block * settings.block; }, gate_keys);
  gate.fill(table, gate_queries, gate_keys, executor);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
