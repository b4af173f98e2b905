// SPDX-License-Identifier: BSD-3-Clause
// Groups of rows in the split engine, each with a softmax of its own: the two levels of Landmark attention.
//
//   group b = group_rows consecutive stored rows of a head, of which the last one is its gate; the last group, which
//   may be shorter, has none pi_b = softmax over the rows of group b but its gate;   P = softmax over {rows of the last
//   group} and {gates} o = sum_{j in the last group} P_j v_j + sum_b P_gate(b) sum_{j in b} pi_b(j) v_j
//
// So a group is attention over its rows, which then joins the groups before it as one key of the gate's logit: an
// online softmax over groups, beside that over the rows of each. Parts of the keys are cut between groups.
//
// Cost: for each query and group two passes over its sums. Memory: a second set of sums for the rows of a task.
#pragma once

#include "split_rows.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// What some rows have of the groups before the present one.
template <class A>
class split_groups {
 public:
  static constexpr int width = simd::width<A>;

  void open(scratch& memory, split_rows<A> const& rows) {
    sums_ = rows.lanes * rows.stride;
    sum_ = memory.allocate<A>(sums_);
    std::fill_n(sum_, sums_, A(0));
    std::fill_n(maximum_, width, -infinity<A>);
    std::fill_n(weight_sum_, width, A(0));
    std::fill_n(gate_, width, -infinity<A>);
  }

  /// Where the logits of the present group's gate go, one for each lane.
  A* gate() { return gate_; }

  /// Adds the present group, with its gate or, if it is the last, as it is; the rows are then without keys.
  void join(split_rows<A>& rows, bool last) {
    for (int lane = 0; lane < rows.rows.count; ++lane) {
      A weight = 0;
      for (int l = lane; l < width; l += rows.lanes) weight += rows.weight_sum[l];
      A const logit = last ? rows.maximum[lane] : gate_[lane];
      if (logit == -infinity<A> || weight == 0) continue;
      A const most = logit > maximum_[lane] || std::isnan(logit) ? logit : maximum_[lane];
      A const kept = std::exp(maximum_[lane] - most), added = logit == most ? A(1) : std::exp(logit - most);
      A const part = last ? added : added * attend::detail::weight_unit<A> / weight;
      maximum_[lane] = most;
      weight_sum_[lane] = weight_sum_[lane] * kept + added * (last ? weight : attend::detail::weight_unit<A>);
      using lanes = simd::vector<A>;
      A* const to = sum_ + lane * rows.stride;
      for (index_t c = 0; c < rows.stride; c += width)
        simd::store(to + c, simd::fused_multiply_add(lanes(part), simd::load(rows.sum + lane * rows.stride + c),
                                                     simd::load(to + c) * lanes(kept)));
    }
    restart(rows);
    std::fill_n(gate_, width, -infinity<A>);
  }

  /// Gives the rows the state of all groups.
  void close(split_rows<A>& rows) const {
    restart(rows);
    std::copy_n(sum_, sums_, rows.sum);
    std::copy_n(maximum_, rows.rows.count, rows.maximum);
    std::copy_n(weight_sum_, rows.rows.count, rows.weight_sum);
  }

 private:
  void restart(split_rows<A>& rows) const {
    std::fill_n(rows.sum, sums_, A(0));
    std::fill_n(rows.maximum, width, -infinity<A>);
    std::fill_n(rows.weight_sum, width, A(0));
  }

  A* sum_;
  index_t sums_;
  alignas(64) A maximum_[array_size(width)];
  alignas(64) A weight_sum_[array_size(width)];
  alignas(64) A gate_[array_size(width)];
};

}  // namespace attend::inline ATTEND_TARGET::engine
