// SPDX-License-Identifier: BSD-3-Clause
// The softmax states of many rows in memory, between the tiles that work on them (gathered.hpp). A row is one query of
// one query head.
//
//   sum [value dimension], maximum, weight_sum      of each row; both sums are relative to the maximum
#pragma once

#include "row_epilogue.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// The states of rows between their blocks of keys. `sum` and `weight_sum` are relative to `maximum`; where the maximum
/// is -inf, both are undefined and count as 0.
template <class A>
class row_states {
 public:
  /// States of rows to which no key was added yet.
  row_states(scratch& memory, index_t rows, index_t dimension)
      : dimension_(dimension),
        sum_(memory.allocate<A>(rows * dimension)),
        maximum_(memory.allocate<A>(rows)),
        weight_sum_(memory.allocate<A>(rows)) {
    std::fill_n(maximum_, rows, -infinity<A>);
  }

  A* sum(index_t row) const { return sum_ + row * dimension_; }
  A& maximum(index_t row) const { return maximum_[row]; }
  A& weight_sum(index_t row) const { return weight_sum_[row]; }

  /// Writes a row's output and log-sum-exp.
  template <Element T>
  void write(index_t row, problem<T> const& p, index_t batch, index_t head, index_t query) const {
    bool const none = maximum_[row] == -infinity<A> || weight_sum_[row] == 0;
    A const factor = none ? A(0) : 1 / weight_sum_[row];
    if (dimension_ > 0)
      merge_rows(&factor, 1, [&](index_t) { return sum(row); }, dimension_, &p.output(batch, head, query, 0));
    write_log_sum_exp(p, batch, head, query, maximum_[row], none ? A(0) : weight_sum_[row]);
  }

 private:
  index_t dimension_;
  A* sum_;
  A* maximum_;
  A* weight_sum_;
};

}  // namespace attend::inline ATTEND_TARGET::engine
