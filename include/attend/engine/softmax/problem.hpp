// SPDX-License-Identifier: BSD-3-Clause
// A softmax attention call whose arguments are read and checked. `problem` holds its data: tensors, sequences, and
// options that are numbers. `policies` holds its code: mask, scores and normalizer, as types.
#pragma once

#include <numeric>
#include <tuple>

#include "../../cache/key_value_rows.hpp"
#include "../../policy/mask/mask.hpp"
#include "../../policy/normalizer/softmax.hpp"
#include "../../policy/row_statistics.hpp"
#include "../../policy/score/score.hpp"
#include "../../policy/sequence/sequences.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// How an engine reads the tokens of a call: with or without a rotation, in the tensors' order or another, with or
/// without extra key-value slots before them.
template <class Position = detail::absent, class Order = in_order, bool HasSlots = false>
struct token_access {
  using position_type = Position;
  using order_type = Order;
  static constexpr bool has_slots = HasSlots;

  Position const& position;
  Order order{};
};

/// The code of a call: its policies.
template <class M, class Scores, class N, class Position = detail::absent, class PairGain = detail::absent,
          class Order = in_order, bool HasSlots = false>
struct policies {
  using mask_type = M;
  using scores_type = Scores;
  using normalizer_type = N;
  using position_type = Position;
  using pair_gain_type = PairGain;
  using order_type = Order;
  static constexpr bool has_slots = HasSlots;  // whether there may be extra key-value slots

  M const& mask;
  Scores scores;  // a tuple of references to score policies
  N const& normalizer;
  Position const& position;   // how queries and keys are rotated, or absent
  PairGain const& pair_gain;  // the factor of each weight after the normalizer, or absent
  Order order{};

  token_access<Position, Order, HasSlots> access() const { return {position, order}; }

  /// The same policies with the tokens in another order.
  template <class Other>
  policies<M, Scores, N, Position, PairGain, Other, HasSlots> in(Other const& other) const {
    return {mask, scores, normalizer, position, pair_gain, other};
  }
};

/// A choice of the call's sequences: all of them, or those whose entry in a list equals `wanted`.
struct sequence_choice {
  bool const* list = nullptr;
  bool wanted = true;

  bool operator()(index_t sequence) const { return !list || list[sequence] == wanted; }
};

/// A vector of each head [head, value dimension], which is added to rows of the output that see some key, or by 1 +
/// which all rows are multiplied.
template <class A>
struct head_vectors {
  tensor_view<A const, 2> rows;
  bool multiply = false;
};

/// The data of a call. Tensors are [batch, head, token, dimension]; those of options not given are empty.
template <Element T>
struct problem {
  using element_type = T;
  using A = accumulation_t<T>;

  /// Without values there is no output, and value_dimension is 0.
  problem(tensor_view<T const, 4> const& queries, tensor_view<T const, 4> const& keys, problem_shape const& extents)
      : query(queries), key(keys), shape(extents), sequences(extents, detail::absent{}) {}

  tensor_view<T const, 4> query, key, value;
  tensor_view<T, 4> output;
  problem_shape shape;
  detail::sequence_list sequences;
  bool chunk_invariant =
      false;  // whether a query's bits must not depend on the other queries of its call (invariance.hpp)
  bool full_precision = false;  // whether nothing is rounded for faster products (precision.hpp)
  index_t group_rows = 0;  // stored rows of a group with a softmax of its own (split_groups.hpp); 0: there are none
  sequence_choice chosen;  // the sequences that an engine runs; it does not write the rows of the others
  A scale = 1;
  bool has_values = false;

  tensor_view<T const, 4> slot_key, slot_value;
  bool slots_have_values = false;
  tensor_view<A const, 3> value_gain;
  tensor_view<A const, 2> head_gates;
  head_vectors<A> of_output;
  tensor_view<A, 3> log_sum_exp;
  tensor_view<A, 3> row_factor;  // what the normalizer multiplies each row's weights by, for a pass behind the call
  tensor_view<A, 3> key_mass;    // [batch, head, key], of such a pass
  tensor_view<A, 4> weights, logits;
  detail::asked_statistics<A> statistics;
  tile_counts* counts = nullptr;

  index_t slots() const { return slot_key.data() ? slot_key.extent(2) : 0; }

  /// The approximate cost if each query has `keys` visible keys.
  detail::loop_cost cost_of(index_t keys) const {
    return {2.0 * static_cast<double>(shape.batches * shape.query_heads) * static_cast<double>(shape.queries) *
            static_cast<double>(keys) * static_cast<double>(shape.key_dimension + shape.value_dimension)};
  }

  /// The number of query heads that share both a key head and a value head, and so the rows of a tile.
  index_t heads_per_group() const {
    if (shape.query_heads == 0) return 1;
    return std::gcd(shape.query_heads / shape.key_heads, shape.query_heads / shape.value_heads);
  }
};

/// Writes the statistics of a row without visible keys; maxima of blocks are 0 already.
template <class A>
void clear_statistics(detail::asked_statistics<A> const& to, index_t batch, index_t head, index_t query) {
  if (to.entropy.data()) to.entropy(batch, head, query) = 0;
  if (to.range_mass.data() && to.range_mass.extent(3) > 0)
    std::fill_n(&to.range_mass(batch, head, query, 0), to.range_mass.extent(3), A(0));
  if (index_t const kept = to.heaviest_keys.data() ? to.heaviest_keys.extent(3) : 0; kept > 0) {
    std::fill_n(&to.heaviest_keys(batch, head, query, 0), kept, -1);
    std::fill_n(&to.heaviest_weights(batch, head, query, 0), kept, A(0));
  }
}

/// Sets the maxima of blocks to 0 before tasks raise them: those of the blocks whose first query is asked for.
template <Element T>
void clear_block_maxima(problem<T> const& p, detail::sequence const& sequence) {
  auto const& to = p.statistics.block_maxima;
  if (!to.data() || to.extent(3) == 0) return;
  index_t const first = divide_up(sequence.answered, p.statistics.block_queries);
  index_t const last =
      p.sequences.padding(sequence.batch) > 0 ? to.extent(2) : divide_up(sequence.queries, p.statistics.block_queries);
  for (index_t head = 0; head < to.extent(1); ++head)
    for (index_t block = first; block < last; ++block)
      std::fill_n(&to(sequence.batch, head, block, 0), to.extent(3), accumulation_t<T>(0));
}

/// Writes rows without visible keys: output 0, log-sum-exp and logits -inf, weights and their statistics 0.
template <Element T>
void clear_rows(problem<T> const& p, index_t batch, index_t head, index_t first, index_t count) {
  for (index_t query = first; query < first + count; ++query) {
    if (p.has_values && p.shape.value_dimension > 0)
      std::fill_n(&p.output(batch, head, query, 0), p.shape.value_dimension, T(0));
    if (p.log_sum_exp.data()) p.log_sum_exp(batch, head, query) = -infinity<accumulation_t<T>>;
    if (p.row_factor.data()) p.row_factor(batch, head, query) = 0;
    if (p.weights.data() && p.shape.keys > 0)
      std::fill_n(&p.weights(batch, head, query, 0), p.shape.keys, accumulation_t<T>(0));
    if (p.logits.data() && p.shape.keys > 0)
      std::fill_n(&p.logits(batch, head, query, 0), p.shape.keys, -infinity<accumulation_t<T>>);
    if (p.statistics.any()) clear_statistics(p.statistics, batch, head, query);
  }
}

/// Sets the sequence of a tile's rows.
template <class A>
void place_sequence(tile_rows<A>& rows, problem_shape const& shape, index_t number, detail::sequence const& sequence) {
  rows.shape = &shape;
  rows.sequence = number;
  rows.batch = sequence.batch;
  rows.first_query_token = sequence.first_query;
  rows.first_key_token = sequence.first_key;
  rows.queries = sequence.queries;
  rows.keys = rows.stored = sequence.keys;
  rows.key_head = 0;
}

/// Says which rows of a source a tile's rows see, those of a key-value head, for rotations that ask.
template <class A, KeyValueSource Source>
void place_on_head(tile_rows<A>& rows, Source const& source, index_t head) {
  rows.key_head = head / attend::detail::heads_of_key(source);
  rows.stored = source.stored(rows.sequence, head);
}

/// Sets a tile's rows to `count` (query, head) pairs of a sequence, heads innermost, from pair `first_row` on.
template <class A, class Order = in_order>
void place_rows(tile_rows<A>& rows, problem_shape const& shape, index_t sequence_number,
                detail::sequence const& sequence, index_t const* heads, index_t head_count, index_t first_row,
                index_t count, Order const& order = {}) {
  place_sequence(rows, shape, sequence_number, sequence);
  rows.set(first_row, count, heads, head_count, order);
}

/// The row of a lane's query in a tensor [batch, head, token, ...].
template <class U, class A>
U* row_of_lane(tensor_view<U, 4> const& tensor, tile_rows<A> const& rows, int lane) {
  return tensor.data() + rows.batch * tensor.stride(0) + rows.head[lane] * tensor.stride(1) +
         rows.query_token(lane) * tensor.stride(2);
}

}  // namespace attend::inline ATTEND_TARGET::engine
