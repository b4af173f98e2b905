// SPDX-License-Identifier: BSD-3-Clause
// Linear attention: the programmable call for everything that carries a state.
//
//   S_t = diag(a_t) S_{t-1} + phi(k_t) w_t^T      w_t = v_t, or what the update policy says
//   x_t = scale * phi(q_t)^T S_t                  o_t = x_t divided by what the normalizer says, the scale in it too
//
//   query  [batch, query head, query, key dimension]
//   key    [batch, key head,   key,   key dimension]
//   value  [batch, value head, key,   value dimension]
//   output [batch, output head, query, value dimension]
//   state  [batch, state head, feature, value dimension]
//
// Without a mask every query reads the state after the last key, as full attention does; with causal{} query i reads it
// after its own token, and the last query stands at the last key. Scale is 1 unless given.
//
// Leading axes may be left out. Heads are grouped in both directions: state heads are the larger of key and value
// heads, output heads the largest of all three, and each count divides the larger ones. More query heads than key-value
// heads share states, as in grouped-query attention, unless the features turn with angles of each query head; more
// value heads than query and key heads are Mamba-2's and Gated DeltaNet's.
//
// Cost: engine/chunked/chunked.hpp says how many operations a token needs, whatever the length; memory for one or two
// states and one chunk per thread.
//
// Angelos Katharopoulos, Apoorv Vyas, Nikolaos Pappas, Francois Fleuret: Transformers are RNNs: Fast Autoregressive
// Transformers with Linear Attention, 2020: features elu_features{}, normalizer key_sum{}.
#pragma once

#include "../../call/state_plan.hpp"

namespace attend::inline ATTEND_TARGET {

/// Attends from `query` to `key` and `value` through a state, and writes `output`; shapes stand at the beginning of
/// this file. All four have one element type (float, double, half or bfloat16) and share no memory with the output.
/// Options, in any order and one of each at most: causal, scale (1 unless given), decay, update, features, normalizer,
/// output_gate, initial_state, final_state, chunk_length, chunk_invariant, full_precision and executor.
///
/// Where the machine has a matrix unit, it multiplies bfloat16, unless there are features, decays of features or a
/// delta rule: the state stays in float, and its terms are within 2^-16 of themselves (engine/chunked/pair_chunk.hpp).
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     linear_attention(q, k, v, o, causal{}, elu_features{}, key_sum{});
template <extend::TensorArgument Query, extend::TensorArgument Key, extend::TensorArgument Value,
          extend::TensorArgument Output, class... Options>
void linear_attention(Query const& query, Key const& key, Value const& value, Output&& output, Options&&... options) {
  using T = call::element_of_call<Output, Query, Key, Value>;
  engine::state_problem<T> problem;
  problem.query = extend::raise<4>(extend::view_of(query));
  problem.key = extend::raise<4>(extend::view_of(key));
  problem.value = extend::raise<4>(extend::view_of(value));
  problem.output = extend::raise<4>(extend::view_of(output));
  extend::scratch memory;
  call::run_states(call::plan_states(problem, memory, options...));
}

/// Does the same and returns the output as an Eigen tensor with the axes of `query`, or of `value` where it has more
/// heads. It needs attend.hpp or core/eigen_tensor.hpp.
///
///     auto const result = linear_attention(q, k, v, causal{}, head_decay(retention_decays(8)));
template <extend::TensorArgument Query, extend::TensorArgument Key, extend::TensorArgument Value, class... Options>
  requires(!(extend::TensorArgument<Options> || ...))
auto linear_attention(Query const& query, Key const& key, Value const& value, Options&&... options) {
  using T = extend::element_of_t<Query const>;
  constexpr int rank = extend::rank_of<Query const>;
  auto extents = extend::view_of(query).extents();
  auto const values = extend::raise<4>(extend::view_of(value));
  auto const keys = extend::raise<4>(extend::view_of(key));
  extents[rank - 1] = values.extent(3);
  if constexpr (rank >= 3) extents[rank - 3] = std::max({extents[rank - 3], keys.extent(1), values.extent(1)});
  auto output = detail::owned_tensor<T, rank>::with_extents(extents);
  linear_attention(query, key, value, output, std::forward<Options>(options)...);
  return output;
}

}  // namespace attend::inline ATTEND_TARGET
