// SPDX-License-Identifier: BSD-3-Clause
// A call that carries a state, whose arguments are read and checked. `state_problem` holds its data: tensors, and
// options that are numbers. `state_policies` holds its code: decay, update, features and normalizer, as types.
#pragma once

#include "../../core/tensor_view.hpp"
#include "../../policy/decay/decay.hpp"
#include "../../policy/feature/feature.hpp"
#include "../../policy/state/normalizer.hpp"
#include "../../policy/update/update.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The code of a call, or of a task: its policies. Decay, update and features of a task may be one object that walks
/// along the tokens.
template <class D, class U, class F, StateNormalizer N>
struct state_policies {
  using decay_type = D;
  using update_type = U;
  using features_type = F;
  using normalizer_type = N;

  D const& decay;
  U const& update;
  F const& features;
  N const& normalizer;
};

/// The place of a chunk's first token, with the members of token_rows.
struct feature_tokens {
  token_side side;
  index_t batch, head, first, position, owner, owners;

  template <class A>
  token_rows<A> rows(A* data, index_t stride, index_t count, index_t dimension) const {
    return {data, stride, count, dimension, side, batch, head, first, position, owner, owners};
  }
};

/// The data of a call. Tensors of options not given are empty.
template <Element T>
struct state_problem {
  using element_type = T;
  using A = accumulation_t<T>;

  tensor_view<T const, 4> query, key, value;
  tensor_view<T, 4> output;
  state_shape shape;
  A scale = 1;
  /// Whether only the keys up to a query's own token are visible to it, or all keys.
  bool causal = false;
  tensor_view<A const, 4> initial_state;
  tensor_view<A const, 3> initial_sum;
  tensor_view<A, 4> final_state;
  tensor_view<A, 3> final_sum;
  /// [batch, output head, query], for a normalizer over all heads: the mean square of each head's row before it is
  /// normalized.
  tensor_view<A, 3> mean_squares;
  index_t chunk = 0;            // the tokens of a chunk; 0: the engine chooses
  bool token_by_token = false;  // whether each token is a step of its own, without chunks
  bool full_precision = false;  // whether nothing is rounded for faster products (precision.hpp)

  /// The number of query heads that read one state.
  index_t heads_per_group() const { return shape.output_heads() / shape.state_heads(); }
  A* mean_square(index_t batch, index_t output_head, index_t token) const {
    return mean_squares.data() ? &mean_squares(batch, output_head, token) : nullptr;
  }
  index_t query_head(index_t output_head) const { return output_head * shape.query_heads / shape.output_heads(); }
  index_t key_head(index_t state_head) const { return state_head * shape.key_heads / shape.state_heads(); }
  index_t value_head(index_t state_head) const { return state_head * shape.value_heads / shape.state_heads(); }

  feature_tokens keys_from(index_t batch, index_t state_head, index_t first) const {
    return {token_side::key, batch, key_head(state_head), first, first, state_head, shape.state_heads()};
  }
  feature_tokens queries_from(index_t batch, index_t output_head, index_t first) const {
    return {token_side::query,   batch, query_head(output_head), first, first + shape.keys - shape.queries, output_head,
            shape.output_heads()};
  }
};

}  // namespace attend::inline ATTEND_TARGET::engine
