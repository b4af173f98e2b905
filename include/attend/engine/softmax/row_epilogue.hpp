// SPDX-License-Identifier: BSD-3-Clause
// The last steps for a row, after its last key: its parts and the sink are merged, and the log-sum-exp and the weights
// are written where the caller asked for them. Each engine writes the output itself, since layouts of sums differ.
//
//   output = gate * factor * sum
//
// where factor is that of the normalizer, times exp(maximum of the part - maximum of all parts), and gate is the
// head's.
#pragma once

#include <utility>

#include "any_policies.hpp"
#include "statistics_writer.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The gate of a head, by which its output is multiplied; 1 without gates.
template <Element T>
accumulation_t<T> head_gate(problem<T> const& p, index_t batch, index_t head) {
  if (!p.head_gates.data()) return 1;
  return p.head_gates(p.head_gates.extent(0) == 1 ? 0 : batch, head);
}

/// Lists those of `count` heads whose gate is not 0, and returns their number: only these heads are computed.
template <Element T>
index_t list_active_heads(problem<T> const& p, index_t batch, index_t first, index_t count, index_t* heads) {
  index_t active = 0;
  for (index_t head = first; head < first + count; ++head)
    if (head_gate(p, batch, head) != 0) heads[active++] = head;
  return active;
}

/// Writes the rows of the heads whose gate is 0: output 0, log-sum-exp and logits -inf, weights 0.
template <Element T>
void clear_gated_heads(problem<T> const& p, detail::sequence const& sequence, index_t first, index_t count) {
  for (index_t head = first; head < first + count; ++head)
    if (head_gate(p, sequence.batch, head) == 0)
      clear_rows(p, sequence.batch, head, sequence.first_query + sequence.answered, sequence.asked());
}

/// Counts a block of keys that a tile processes: `lanes` is the number of its rows with the padding.
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

/// Changes a row of the output that is written by the vector of its head, if there is one. A row whose weights sum up
/// to 0 is 0, and stays so.
template <Element T, class A = accumulation_t<T>>
void add_head_vector(problem<T> const& p, tile_rows<A> const& rows, int lane, A weight_sum) {
  if (!p.of_output.rows.data() || weight_sum == 0) return;
  T* const row = row_of_lane(p.output, rows, lane);
  simd::transform_row(
      row, p.shape.value_dimension,
      [&](simd::vector<A> const& x, simd::vector<A> const& e) {
        return p.of_output.multiply ? simd::fused_multiply_add<A>(x, e, x) : x + e;
      },
      static_cast<T const*>(row), &p.of_output.rows(rows.head[lane], 0));
}

/// Writes the log-sum-exp and the weights of a lane's row (what a normalizer without a maximum has summed up stands in
/// place of the log-sum-exp; no caller asks for that but the gradients), and turns the maxima of its parts into the
/// factors of their sums. Before the call, p.weights holds the row's final logits, and each part's sums are relative to
/// its maximum. Returns the sum of its weights; `finished` is told what statistics need to know, where they are asked
/// for.
template <Element T, class A = accumulation_t<T>>
A row_epilogue(problem<T> const& p, any_policies<A> const& call, tile_rows<A> const& rows, int lane, A* maximum,
               A const* weight_sum, index_t parts, finished_lanes<A>* finished = nullptr) {
  A most = -infinity<A>, total = 0;
  if (call.keeps_maximum && parts == 1 && !call.has_sinks) {
    // There is nothing to merge, as in most tiles: where keys are few, join_maxima would take a measurable share of the
    // time.
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
  if (p.row_factor.data()) p.row_factor(rows.batch, rows.head[lane], rows.query_token(lane)) = factor;
  if (p.weights.data())
    call.finish_weights(row_of_lane(p.weights, rows, lane), p.weights.extent(3), rows.keys,
                        most == -infinity<A> ? A(0) : most, factor);
  if (call.keeps_maximum)
    write_log_sum_exp(p, rows.batch, rows.head[lane], rows.query_token(lane), most, total);
  else if (p.log_sum_exp.data())
    p.log_sum_exp(rows.batch, rows.head[lane], rows.query_token(lane)) = total;
  if (finished) {
    finished->maximum[lane] = most;
    finished->weight_sum[lane] = total;
    finished->factor[lane] = factor;
  }
  return total;
}

}  // namespace attend::inline ATTEND_TARGET::engine
