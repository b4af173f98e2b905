// SPDX-License-Identifier: BSD-3-Clause
// The shape of a call that carries a state through a sequence: linear attention and its relatives.
#pragma once

#include "../../core/types.hpp"

namespace attend::inline ATTEND_TARGET {

namespace extend {

/// Key and value heads are grouped like query heads: the larger count is that of the states, the largest of all that of
/// the outputs, and each count divides the larger ones. Of `keys` tokens the last `queries` are asked for output, where
/// the call is causal.
struct state_shape {
  index_t batches = 0, query_heads = 0, key_heads = 0, value_heads = 0, queries = 0, keys = 0, key_dimension = 0,
          value_dimension = 0;
  index_t features = 0;     // of a key: rows of the state
  bool own_states = false;  // of each query head: its features turn the keys in a way of their own

  /// Heads of keys and values that are written together.
  index_t written_heads() const { return key_heads > value_heads ? key_heads : value_heads; }
  index_t state_heads() const { return own_states && query_heads > written_heads() ? query_heads : written_heads(); }
  index_t output_heads() const { return query_heads > state_heads() ? query_heads : state_heads(); }
};

}  // namespace extend

}  // namespace attend::inline ATTEND_TARGET
