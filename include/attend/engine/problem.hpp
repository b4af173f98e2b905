// What a softmax-like call comes down to, once its arguments are read and checked: tensors, sequences, and the options
// that are data. What is code (mask, scores, normalizer) comes beside it, as types.
#pragma once

#include <numeric>
#include <tuple>

#include "../policy/mask/mask.hpp"
#include "../policy/normalizer/softmax.hpp"
#include "../policy/output.hpp"
#include "../policy/score/score.hpp"
#include "../policy/sequence/sequences.hpp"

namespace attend::engine {

/// The code of a call.
template <Mask M, class Scores, Normalizer N, class Position>
struct steering {
  using normalizer_type = N;
  using position_type = Position;

  M const& mask;
  Scores const& scores;  // a tuple of score policies
  N const& normalizer;
  Position const& position;  // how queries and keys are rotated, or absent
};

/// The data of a call. Tensors are [batch, head, token, dimension]; those of options not given are empty.
template <Element T>
struct problem {
  using A = accumulation_t<T>;

  /// Without values there is no output, and value_dimension is 0.
  problem(tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key, problem_shape const& shape)
      : query(query), key(key), shape(shape), sequences(shape, detail::absent{}) {}

  tensor_view<T const, 4> query, key, value;
  tensor_view<T, 4> output;
  problem_shape shape;
  detail::sequence_list sequences;
  A scale = 1;
  bool has_values = false;

  tensor_view<T const, 4> slot_key, slot_value;
  bool slots_have_values = false;
  tensor_view<A const, 3> value_gain;
  tensor_view<A const, 2> head_gates;
  tensor_view<A, 3> log_sum_exp;
  tensor_view<A, 4> weights;
  tile_counts* counts = nullptr;

  index_t slots() const { return slot_key.data() ? slot_key.extent(2) : 0; }

  /// Query heads that share both a key head and a value head: the rows of a tile.
  index_t heads_together() const {
    return std::gcd(shape.query_heads / shape.key_heads, shape.query_heads / shape.value_heads);
  }
};

}  // namespace attend::engine
