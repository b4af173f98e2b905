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
#include "../../core/head_loop.hpp"
#include "../../engine/softmax/row_products.hpp"
#include "../../policy/mask/block_sparse.hpp"
#include "../../policy/mask/causal.hpp"
#include "../../policy/position/rotary.hpp"
#include "../../policy/score/scale.hpp"
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

/// The gate's rows for the blocks of some heads: to [task][block][gate dimension], task = batch * heads + head. `pool`
/// writes what a block is made of; `position` says where it begins.
template <Element T, class Rotary, class E, class Pool, class Position>
void gate_rows(tensor_view<T const, 4> const& tokens, tensor_view<accumulation_t<T> const, 3> const& weight,
               Rotary const& rotation, index_t block, E& executor, Pool const& pool, Position const& position,
               accumulation_t<T>* to) {
  using A = accumulation_t<T>;
  constexpr index_t lanes = simd::tile_lanes<A>;
  index_t const heads = tokens.extent(1), blocks = divide_up(tokens.extent(2), block);
  index_t const pooled = weight.extent(1), dimension = weight.extent(2);
  loop_cost const of_block =
      loop_cost::of(2 * pooled * dimension, block * tokens.extent(3) * static_cast<index_t>(sizeof(T)));
  for_heads(executor, tokens.extent(0), heads, blocks * of_block, [&](index_t batch, index_t head) {
    scratch memory;
    engine::projection<A> const product(
        memory, {weight.data() + head * weight.stride(0), {pooled, dimension}, {weight.stride(1), 1}}, lanes);
    A* const rows = memory.allocate<A>(lanes * pooled);
    A* const spare = memory.allocate<A>(dimension);
    A* const angles = memory.allocate<A>(rotation.buffer_size());
    A const* from[array_size(lanes)];
    A* written[array_size(lanes)];
    for (index_t first = 0; first < blocks; first += lanes) {
      index_t const count = std::min(lanes, blocks - first);
      for (index_t i = 0; i < lanes; ++i) {
        from[i] = rows + std::min(i, count - 1) * pooled;
        written[i] = i < count ? to + ((batch * heads + head) * blocks + first + i) * dimension : spare;
        if (i >= count) continue;
        index_t const token = (first + i) * block;
        pool(engine::rows_of_head(tokens, batch, head, token), std::min(block, tokens.extent(2) - token),
             rows + i * pooled);
      }
      product.multiply(from, written);
      for (index_t i = 0; i < count; ++i)
        rotation.rotation_at(token_place::on_all_axes(batch, position(first + i)), angles)
            .apply(written[i], written[i], dimension);
    }
  });
}

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

/// Chooses blocks of keys for blocks of queries, by the gate's rows of both.
template <class A>
struct seer_choice {
  problem_shape const& shape;
  seer_prefill_options const& settings;
  index_t dimension;  // of the gate

  index_t shift() const { return shape.keys - shape.queries; }
  index_t query_blocks() const { return divide_up(shape.queries, settings.block); }
  index_t key_blocks() const { return divide_up(shape.keys, settings.block); }
  /// The largest number of blocks in a list.
  index_t most() const {
    return settings.top > 0 ? std::min(std::max<index_t>(settings.top, 2), key_blocks()) : key_blocks();
  }

  /// queries [batch, query head, block, gate dimension], keys [batch, key head, block, gate dimension].
  template <class E>
  void fill(block_table& table, A const* queries, A const* keys, E& executor) const {
    if (key_blocks() == 0) return;
    loop_cost const of_head = loop_cost::of(2 * query_blocks() * key_blocks() * dimension);
    for_heads(executor, shape.batches, shape.query_heads, of_head, [&](index_t batch, index_t head) {
      index_t const key_head = batch * shape.key_heads + head / (shape.query_heads / shape.key_heads);
      index_t const first_row = (batch * shape.query_heads + head) * query_blocks();
      scratch memory;
      auto* const chosen = memory.allocate<std::int32_t>(most());
      engine::row_products(
          tensor_view<A const, 2>(keys + key_head * key_blocks() * dimension, {key_blocks(), dimension}),
          query_blocks(), engine::row_order::own_bits, [&](index_t i) { return queries + (first_row + i) * dimension; },
          [&](index_t i, A const* logits) { list(i, logits, first_row + i, chosen, table); });
    });
  }

 private:
  /// The list of block i of the queries: its own blocks of keys, and what the gate chooses before them.
  void list(index_t i, A const* logits, index_t row, std::int32_t* chosen, block_table& table) const {
    index_t const last = std::min((i + 1) * settings.block, shape.queries) - 1 + shift();
    if (last < 0) return;
    // Where the first query is not aligned with a block of keys, a block of queries has two of its own.
    index_t const own = std::max<index_t>(i * settings.block + shift(), 0) / settings.block,
                  end = last / settings.block + 1;
    if (settings.top > 0) {
      index_t const found = engine::top_products(logits, own, std::max<index_t>(settings.top - (end - own), 0), chosen);
      for (index_t c = 0; c < found; ++c) table.add(row, chosen[c]);
    } else {
      A const scale = static_cast<A>(usual_scale(dimension));
      A const largest = *std::max_element(logits, logits + end);
      A weight_sum = 0;
      for (index_t block = 0; block < end; ++block) weight_sum += std::exp((logits[block] - largest) * scale);
      // Logits are compared: a weight may be too small for its type, and is above a threshold of 0 all the same.
      A const least = largest + std::log(static_cast<A>(settings.threshold) * weight_sum) / scale;
      for (index_t block = 0; block < own; ++block)
        if (logits[block] > least) table.add(row, block);
    }
    for (index_t block = own; block < end; ++block) table.add(row, block);
  }
};

/// What the gate sees of a block of keys: its maxima, minima and means, one behind the other.
template <class Rows, class A>
void pool_extremes_and_mean(Rows const& rows, index_t count, index_t width, A* to) {
  simd::widen_row(rows.row(0), to, width);
  std::copy_n(to, width, to + width);
  for (index_t j = 1; j < count; ++j)
    for (index_t c = 0; c < width; ++c) {
      A const x = static_cast<A>(rows.row(j)[c]);
      to[c] = std::max(to[c], x);
      to[width + c] = std::min(to[width + c], x);
    }
  simd::mean_of_rows<std::remove_cvref_t<decltype(*rows.row(0))>>([&](index_t j) { return rows.row(j); }, count, width,
                                                                  to + 2 * width);
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
  detail::seer_choice<A> choice{shape, settings, w_q.extent(2)};
  if (shape.keys > 0 && shape.queries > 0)
    rotation.check_queries(shape.batches, shape.queries, {std::min<index_t>(choice.shift(), 0), shape.keys - 1},
                           choice.dimension);
  auto& executor = call::executor_of(options...);
  table.reset({shape.batches, shape.query_heads, shape.queries, shape.keys, settings.block, settings.block},
              choice.most());

  scratch memory;
  auto const rows_of = [&](index_t heads, index_t blocks) {
    return memory.allocate<A>(shape.batches * heads * blocks * choice.dimension);
  };
  A* const gate_queries = rows_of(shape.query_heads, choice.query_blocks());
  A* const gate_keys = rows_of(shape.key_heads, choice.key_blocks());
  index_t const width = shape.key_dimension;
  detail::gate_rows<T>(
      q, w_q, rotation, settings.block, executor,
      [&](engine::rows_of<T> const& rows, index_t count, A* to) {
        simd::mean_of_rows<T>([&](index_t j) { return rows.row(j); }, count, width, to);
      },
      [&](index_t block) { return block * settings.block + choice.shift(); }, gate_queries);
  detail::gate_rows<T>(
      k, w_k, rotation, settings.block, executor,
      [&](engine::rows_of<T> const& rows, index_t count, A* to) {
        detail::pool_extremes_and_mean(rows, count, width, to);
      },
      [&](index_t block) { return block * settings.block; }, gate_keys);
  choice.fill(table, gate_queries, gate_keys, executor);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
