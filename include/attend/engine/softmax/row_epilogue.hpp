// SPDX-License-Identifier: BSD-3-Clause
// What is left to do for a row when it has seen its last key: a sink joins its parts, and the log-sum-exp and the
// weights that a caller asked for are written. The output itself is written by whoever knows how the sums lie.
//
//   output = factor * sum        factor = shrink of the part * factor of the normalizer        and the gate of the head
#pragma once

#include <utility>

#include "any_policies.hpp"
#include "join_parts.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// What a head's output is multiplied by.
template <Element T>
accumulation_t<T> head_gate(problem<T> const& p, index_t batch, index_t head) {
  if (!p.head_gates.data()) return 1;
  return p.head_gates(p.head_gates.extent(0) == 1 ? 0 : batch, head);
}

/// Lists those of `count` heads whose gate is not 0, which are computed.
template <Element T>
index_t list_active_heads(problem<T> const& p, index_t batch, index_t first, index_t count, index_t* heads) {
  index_t active = 0;
  for (index_t head = first; head < first + count; ++head)
    if (head_gate(p, batch, head) != 0) heads[active++] = head;
  return active;
}

/// Writes the rows of the other heads.
template <Element T>
void clear_gated_heads(problem<T> const& p, detail::sequence const& sequence, index_t first, index_t count) {
  for (index_t head = first; head < first + count; ++head)
    if (head_gate(p, sequence.batch, head) == 0)
      clear_rows(p, sequence.batch, head, sequence.first_query + sequence.answered, sequence.asked());
}

/// Counts keys that rows, `lanes` of them with the padding, take in one go.
template <class A>
void count_pairs(tile_counts* counts, tile_rows<A> const& rows, key_range range, visibility sight, index_t lanes) {
  if (!counts) return;
  ++(sight == visibility::all ? counts->full : counts->masked);
  counts->pairs += range.count() * rows.count;
  counts->padded_pairs += range.count() * lanes;
}

template <Element T, class A = accumulation_t<T>>
void write_log_sum_exp(problem<T> const& p, index_t batch, index_t head, index_t token, A maximum, A weight_sum) {
  if (p.log_sum_exp.data())
    p.log_sum_exp(batch, head, token) =
        weight_sum == 0 ? -infinity<A> : maximum + std::log(weight_sum / detail::weight_unit<A>);
}

/// Final logits stand where the weights of a lane's row will be, in the parts' maxima what their sums are relative to.
/// Writes log-sum-exp and weights, and turns the maxima into what the parts' sums are multiplied by.
template <Element T, class A = accumulation_t<T>>
void row_epilogue(problem<T> const& p, any_policies<A> const& call, tile_rows<A> const& rows, int lane, A* maximum,
                  A const* weight_sum, index_t parts) {
  A most = -infinity<A>, total = 0;
  if (call.keeps_maximum && parts == 1 && !call.has_sinks) {
    // Nothing to join, as in most tiles: where keys are few, asking for it would be seen.
    most = std::exchange(*maximum, A(1));
    total = *weight_sum;
  } else if (call.keeps_maximum) {
    A const sink = call.has_sinks ? call.sink(rows, lane) : -infinity<A>;
    most = join_maxima(maximum, parts, sink);
    for (index_t i = 0; i < parts; ++i)
      if (maximum[i] != 0 || std::isnan(weight_sum[i])) total += maximum[i] * weight_sum[i];
    if (sink != -infinity<A>) total += std::exp(sink - most) * detail::weight_unit<A>;
  } else {
    std::fill_n(maximum, parts, A(1));
    for (index_t i = 0; i < parts; ++i) total += weight_sum[i];
  }
  A const factor = call.factor(total);
  for (index_t i = 0; i < parts; ++i) maximum[i] *= factor;
  if (p.weights.data())
    call.finish_weights(row_of_lane(p.weights, rows, lane), p.weights.extent(3), rows.keys,
                        most == -infinity<A> ? A(0) : most, factor);
  write_log_sum_exp(p, rows.batch, rows.head[lane], rows.query_token(lane), most, total);
}

}  // namespace attend::inline ATTEND_TARGET::engine
