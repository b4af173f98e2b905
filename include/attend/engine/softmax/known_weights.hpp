// SPDX-License-Identifier: BSD-3-Clause
// The weights of a softmax whose log-sum-exps are known, as policies of a further pass over the pairs:
//
//   a score        s_ij - l_i
//   a normalizer   p_ij = exp(s_ij - l_i)
//
// Such a pass needs no maximum, since no weight exceeds 1. Rounding l_i gives a weight a relative error of |l_i| times
// the unit roundoff of the accumulation type.
#pragma once

#include <limits>

#include "problem.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// s_ij - l_i: logits relative to the log-sum-exp of their row. With OfHidden, a hidden key gets the smallest finite
/// logit, whose weight is 0.
template <class A, bool OfHidden>
struct relative_to_rows {
  using option_kind = option::score;
  static constexpr bool may_hide = false;
  tensor_view<A const, 3> log_sum_exp;

  template <class T>
  auto bind(tile_rows<T> const& rows, key_range) const {
    return [row = lane_values<T>([&](int lane) {
              T const sum = log_sum_exp(rows.batch, rows.head[lane], rows.query_token(lane));
              return sum == -infinity<T> ? T(0) : sum;
            })](simd::vector<T> const& s, score_place<T> const& place) {
      simd::vector<T> const relative = s - row.at(place.lane);
      if constexpr (OfHidden)
        return simd::max(simd::vector<T>(std::numeric_limits<T>::lowest()), relative);
      else
        return relative;
    };
  }
};

/// p_ij = exp(s_ij - l_i). With MarksHidden, a hidden key gets a weight of -1, since the weight of a visible key may be
/// 0; otherwise 0.
template <bool MarksHidden>
struct known_weights {
  using option_kind = option::normalizer;
  static constexpr bool keeps_maximum = false, has_weight_sum = false;

  template <class T>
  ATTEND_INLINE simd::vector<T> weight(simd::vector<T> const& s, simd::vector<T> const&) const {
    if constexpr (MarksHidden)
      return simd::select<T>(s == simd::vector<T>(-infinity<T>), simd::vector<T>(T(-1)), simd::exp<T>(s));
    else
      return simd::exp<T>(s);
  }
  template <class T>
  ATTEND_INLINE simd::vector<T> weight_sum(simd::vector<T> const& s, simd::vector<T> const&) const {
    return s;
  }
  template <class T>
  T factor(T) const {
    return 1;
  }
};

/// The scores of a further pass: those of the call, and then the log-sum-exp of each row.
template <bool OfHidden, class A, class... Scores>
auto scores_of_weights(std::tuple<Scores...> const& of_call, tensor_view<A const, 3> const& log_sum_exp) {
  return std::tuple_cat(of_call, std::tuple(relative_to_rows<A, OfHidden>{log_sum_exp}));
}

}  // namespace attend::inline ATTEND_TARGET::engine
