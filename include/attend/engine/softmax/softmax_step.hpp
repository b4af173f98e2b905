// SPDX-License-Identifier: BSD-3-Clause
// The step that all engines share: rows that stand beside each other take a block of keys.
//
//   logits      products of queries and keys, then scores and mask
//   maximum     raised where a logit exceeds it by much; what was summed up so far is rescaled
//   weights     exp(logit - maximum), or what the normalizer says; they are summed up; gains multiply them
//   values      sum += weight * value; a hidden key adds nothing, not even 0 * NaN
//
// Engines differ in how keys and values reach the registers and in how logits lie beside each other: that is their
// `Rows` (tile_step.hpp, split_step.hpp).
#pragma once

#include "any_policies.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// What a call says of the keys of a sequence, and not of slots.
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

  // Where the final logits go, if they are wanted. In place of weights too: row_epilogue turns them into weights once
  // the row's sum is known.
  tensor_view<A, 4> const* weights = nullptr;
  tensor_view<A, 4> const* logits = nullptr;
  A const* value_gain = nullptr;  // of each key
};

/// From final logits on.
template <class Rows, class A>
void take_logits(Rows& rows, any_policies<A> const& call, bool may_hide, own_keys<A> const* own) {
  rows.mark_hidden(may_hide);
  if (call.keeps_maximum) rows.raise_maximum();
  rows.weigh(call);
  if (!rows.has_values()) return;
  if (own && own->value_gain) rows.multiply_gain(own->value_gain);
  if (own && call.has_pair_gain) rows.multiply_pairs(call);
  rows.add_values();
}

/// All of it. Without own keys, the block's are slots: no policy but the normalizer knows them.
template <class Rows, class A>
void softmax_step(Rows& rows, any_policies<A> const& call, bool masked, own_keys<A> const* own) {
  if (!rows.score(call, masked)) return;
  if (!own) return take_logits(rows, call, false, own);
  rows.apply(call, masked);
  for (auto const* pairs : {own->weights, own->logits})
    if (pairs) rows.write_logits(*pairs);
  take_logits(rows, call, masked || call.scores_hide, own);
}

}  // namespace attend::inline ATTEND_TARGET::engine
