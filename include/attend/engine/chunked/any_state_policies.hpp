// SPDX-License-Identifier: BSD-3-Clause
// The policies of a call that carries a state (decay, update, features, normalizer) behind one virtual interface for
// the chunked engine.
//
// The engine asks them a few times for each chunk and head, and each answer is a loop over a chunk's rows or numbers:
// so the calls cost little. The engine's own loops (products, solving, writing and reading the state, outputs) depend
// on no policy and are compiled once for an element type; a further combination of policies adds only its answers to a
// program (erased_state_policies.hpp).
#pragma once

#include "../../core/scratch.hpp"
#include "state_problem.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <class A>
class any_chunk_decay;
struct chunk_layout;
class chunk_prefetch;

/// The policies of a task.
template <class A>
class any_state_policies {
 public:
  decay_kind const kind;
  bool const has_constant_decay;
  bool const has_rates, reads_state;              // of the update
  bool const sums_keys, whole_rows, joins_heads;  // of the normalizer
  bool const has_identity;                        // features are the tokens' own rows
  bool const has_kernel;                          // the products of features are a function of a smaller product

  /// Writes the features of some tokens, unless they are the tokens' own rows.
  virtual void fill(token_rows<A> const& rows, A* to, index_t stride) const = 0;
  virtual void prepare(token_rows<A> const& rows, A* to, index_t stride) const = 0;
  virtual void fill_prepared(token_rows<A> const& rows, A* to, index_t stride) const = 0;
  /// Turns products of prepared rows of that dimension, whole vectors of them, into products of features.
  virtual void apply_kernel(A* products, index_t count, index_t dimension) const = 0;

  /// The logarithms of some tokens' decays: a number for each token, or a row, with `stride` from one to the next.
  virtual void read_decays(index_t batch, index_t head, index_t first, index_t count, A* to, index_t stride) const = 0;
  virtual void prefetch_decays(chunk_prefetch& prefetch, index_t batch, index_t head, index_t first,
                               index_t count) const = 0;
  /// The decays of a chunk, in that memory.
  virtual any_chunk_decay<A>* make_decay(scratch& memory, chunk_layout const& layout, bool attends) const = 0;

  virtual void read_rates(index_t batch, index_t head, index_t first, index_t count, A* to) const = 0;
  /// The normalizer's factor for scale * number: a sum of weights, or a mean square.
  virtual A factor(A scale, A number) const = 0;

 protected:
  template <class D, class U, class F, class N>
  explicit any_state_policies(state_policies<D, U, F, N> const&)
      : kind(D::kind),
        has_constant_decay(is_constant<D>),
        has_rates(U::has_rates),
        reads_state(U::reads_state),
        sums_keys(N::sums_keys),
        whole_rows(N::whole_rows),
        joins_heads(extend::joins_heads<N>),
        has_identity(std::same_as<F, identity_features>),
        has_kernel(KernelFeatures<F>) {}
  ~any_state_policies() = default;
};

/// The policies of a call: those of each of its tasks, unless the feature map follows the sequence.
template <Element T>
class any_state_call {
 public:
  using A = accumulation_t<T>;
  using run_task = void(void* context, any_state_policies<A> const& policies);

  any_state_policies<A> const& policies;
  bool const follows;

  /// Calls run(context, policies) with the policies that the map makes for a head of keys, `key_head` of all batches'.
  virtual void follow(followed_sequence<T> const& sequence, index_t key_head, run_task* run, void* context) const = 0;

 protected:
  any_state_call(any_state_policies<A> const& of_call, bool follows_sequence)
      : policies(of_call), follows(follows_sequence) {}
  ~any_state_call() = default;
};

}  // namespace attend::inline ATTEND_TARGET::engine
