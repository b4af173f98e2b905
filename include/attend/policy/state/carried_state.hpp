// SPDX-License-Identifier: BSD-3-Clause
// The state before the first token and after the last, so that a sequence may come in any number of pieces.
//
//   initial_state{s}       what the sequence starts with; without it, zeros
//   final_state{s}         what it ends with, written
//   initial_state{s, z}, final_state{s, z}      with the sum of the keys, for a normalizer that has one
//   chunk_length{n}        tokens of a chunk, 1 to 256; without it, chosen by the shape. It changes rounding only.
//
// s is [batch, state head, feature, value dimension] and z [batch, state head, feature], both of the accumulation type:
// float, or double for tensors of double. Leading axes may be left out. The two may be the same memory: a decoding loop
// keeps one state, which each step reads and writes once.
#pragma once

#include "../../core/options.hpp"
#include "../../core/tensor_view.hpp"

namespace attend::inline ATTEND_TARGET::linear {

/// Gives the state that a sequence starts with, [batch, state head, feature, value dimension], in the accumulation
/// type, and for normalizers that have one the sum of keys, [batch, state head, feature]. A call throws argument_error
/// where shapes do not fit.
///
///     linear_attention(q, k, v, o, causal{}, initial_state(state), final_state(state2));
template <class A>
struct initial_state {
  using option_kind = option::initial_state;
  tensor_view<A const, 4> state;
  tensor_view<A const, 3> key_sum;

  template <TensorArgument State>
  explicit initial_state(State const& tensor) : state(raise<4>(view_of(tensor))) {}
  template <TensorArgument State, TensorArgument Sum>
  initial_state(State const& tensor, Sum const& sum)
      : state(raise<4>(view_of(tensor))), key_sum(raise<3>(view_of(sum))) {}
};
template <class State>
initial_state(State const&) -> initial_state<element_of_t<State const>>;
template <class State, class Sum>
initial_state(State const&, Sum const&) -> initial_state<element_of_t<State const>>;

/// Takes the state that a sequence ends with, of the shapes of the initial one. It may be the same memory.
///
///     linear_attention(q, k, v, o, causal{}, initial_state(state), final_state(state));  // in place
template <class A>
struct final_state {
  using option_kind = option::final_state;
  tensor_view<A, 4> state;
  tensor_view<A, 3> key_sum;

  template <TensorArgument State>
  explicit final_state(State&& tensor) : state(raise<4>(view_of(tensor))) {}
  template <TensorArgument State, TensorArgument Sum>
  final_state(State&& tensor, Sum&& sum) : state(raise<4>(view_of(tensor))), key_sum(raise<3>(view_of(sum))) {}
};
template <class State>
final_state(State&&) -> final_state<element_of_t<State>>;
template <class State, class Sum>
final_state(State&&, Sum&&) -> final_state<element_of_t<State>>;

/// Gives the tokens of a chunk, 1 to 256. A call throws argument_error for other lengths.
///
///     linear_attention(q, k, v, o, causal{}, chunk_length{64});
struct chunk_length {
  using option_kind = option::chunk_length;
  static constexpr index_t most = 256;
  index_t tokens;

  constexpr explicit chunk_length(index_t count) : tokens(count) {}
};

}  // namespace attend::inline ATTEND_TARGET::linear
