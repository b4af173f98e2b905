// SPDX-License-Identifier: BSD-3-Clause
// Intervals: query i sees keys first[i] to last[i] - 1, as two lists say. Where both ascend it is what monotonic
// attention sees: a window around, or the segment up to, a position that moves on with each output.
//
// Albert Zeyer, Ralf Schlueter, Hermann Ney: A Study of Latent Monotonic Attention Variants, 2021 (local windowed and
// segmental soft attention).
#pragma once

#include "../../core/index_list.hpp"
#include "interval_mask.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Shows query i the keys first[i] to last[i] - 1. A call throws argument_error where a list is neither as long as its
/// queries nor as long as those of all batches.
///
///     softmax_attention(q, k, v, o, intervals{first, last});
class intervals : public extend::interval_mask<intervals> {
 public:
  /// The lists are [queries] for all batches, or [batches * queries]. Intervals may be empty.
  intervals(index_list first, index_list last) : first_(first), last_(last) {}

  void check(extend::problem_shape const& shape) const {
    for (index_list const& list : {first_, last_})
      if (list.size() != shape.queries && list.size() != shape.queries * shape.batches)
        extend::fail("intervals", "expected ", shape.queries, " or ", shape.queries * shape.batches, " ends, got ",
                     list.size());
    if (first_.size() != last_.size())
      extend::fail("intervals", "expected as many first keys as last ones, got ", first_.size(), " and ", last_.size());
    for (index_t i = 0; i < first_.size(); ++i)
      if (first_[i] < 0 || last_[i] > shape.keys)
        extend::fail("intervals", "expected keys from 0 to ", shape.keys, ", got ", first_[i], " to ", last_[i], " at ",
                     i);
  }
  template <class T>
  extend::key_range interval(extend::tile_rows<T> const& rows, int lane) const {
    index_t const at =
        rows.query_token(lane) + (first_.size() == rows.shape->queries ? 0 : rows.batch * rows.shape->queries);
    return {first_[at], last_[at]};
  }

 private:
  index_list first_, last_;
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
