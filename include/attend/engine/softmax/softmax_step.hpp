// SPDX-License-Identifier: BSD-3-Clause
// The step that all softmax engines share: some rows, each a query of one query head, process a block of keys.
//
//   logits      products of queries and keys, then scores and mask
//   maximum     raised where a logit exceeds it by much; the sums so far are rescaled
//   statistics  see the logits here, and the weights before they are multiplied
//   weights     exp(logit - maximum), or the normalizer's function; they are added to the weight sum, and then
//               multiplied by gains
//   values      sum += weight * value; a hidden key adds nothing, not even 0 * NaN
//
// Engines differ in how keys and values reach the registers and in the layout of the logits: both are up to the
// engine's `Rows` (tile_step.hpp, split_step.hpp).
#pragma once

#include "row_statistics.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The parts of a call that concern the keys of a sequence and not extra key-value slots.
template <class A>
struct own_keys {
  own_keys() = default;
  template <Element T>
  own_keys(problem<T> const& p, detail::sequence const& sequence, index_t value_head) {
    if (p.weights.data()) weights = &p.weights;
    if (p.logits.data()) logits = &p.logits;
    if (p.value_gain.data())
      value_gain = &p.value_gain(p.value_gain.extent(0) == 1 ? 0 : sequence.batch,
                                 p.value_gain.extent(1) == 1 ? 0 : value_head, sequence.first_key);
  }

  // The tensors to which the final logits are written, or null. `weights` too receives logits first: row_epilogue turns
  // them into weights once the row's weight sum is known.
  tensor_view<A, 4> const* weights = nullptr;
  tensor_view<A, 4> const* logits = nullptr;
  A const* value_gain = nullptr;  // of each key
  row_statistics<A>* statistics = nullptr;
};

/// Marks logits of hidden pairs before they become weights.
template <class A>
void mark_hidden(A const* logits, index_t count, bool* hidden) {
  for (index_t i = 0; i < count; ++i) hidden[i] = logits[i] == -infinity<A>;
}

/// The step from final logits on.
template <class Rows, class A>
void update_softmax(Rows& rows, any_policies<A> const& call, bool may_hide, own_keys<A> const* own) {
  rows.mark_hidden(may_hide);
  if (call.keeps_maximum) rows.raise_maximum();
  if (own && own->statistics) rows.show_logits(*own->statistics);
  rows.weigh(call);
  if (!rows.has_values()) return;
  // A function of weights comes before what multiplies values.
  if (own && call.has_pair_gain) rows.multiply_pairs(call);
  if (own && own->value_gain) rows.multiply_gain(own->value_gain);
  rows.add_values();
}

/// The whole step. Without `own`, the block holds slots, to which no policy but the normalizer applies.
template <class Rows, class A>
void softmax_step(Rows& rows, any_policies<A> const& call, bool masked, own_keys<A> const* own) {
  if (!rows.score(call, masked)) return;
  if (!own) return update_softmax(rows, call, false, own);
  rows.apply(call, masked);
  for (auto const* pairs : {own->weights, own->logits})
    if (pairs) rows.write_logits(*pairs);
  update_softmax(rows, call, masked || call.scores_hide, own);
}

}  // namespace attend::inline ATTEND_TARGET::engine
