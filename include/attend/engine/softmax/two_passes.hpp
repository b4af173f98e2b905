// SPDX-License-Identifier: BSD-3-Clause
// Functions of normalized weights, which must be known before the function is applied: two passes over the keys.
//
//   first    without values: the log-sum-exp l_i of each row, and the weights and logits that the caller asked for
//   second   p_ij = exp(s_ij - l_i), the function of p_ij, and the sum over values
//
// A hidden key takes part in neither pass, unless the function is to be applied to keys that a score hides (of_hidden):
// their weight is then 0.
//
// The second pass needs no maximum, since no weight exceeds 1. Rounding l_i gives a weight a relative error of
// |l_i| times the unit roundoff of the accumulation type.
#pragma once

#include <limits>

#include "tiled.hpp"

namespace attend::inline ATTEND_TARGET::engine {

/// s_ij - l_i: logits relative to the log-sum-exp of their row. With OfHidden, a hidden key gets the smallest finite
/// logit, whose weight is 0.
template <class A, bool OfHidden>
struct relative_to_rows {
  using option_kind = option::score;
  static constexpr bool may_hide = false;
  tensor_view<A, 3> log_sum_exp;

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

/// p_ij = exp(s_ij - l_i). A hidden key gets a weight of -1, since the weight of a visible key may be 0.
struct known_weights {
  using option_kind = option::normalizer;
  static constexpr bool keeps_maximum = false, has_weight_sum = false;

  template <class T>
  ATTEND_INLINE simd::vector<T> weight(simd::vector<T> const& s, simd::vector<T> const&) const {
    return simd::select<T>(s == simd::vector<T>(-infinity<T>), simd::vector<T>(T(-1)), simd::exp<T>(s));
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

/// Runs a problem whose arguments are checked.
template <Element T, KeyValueSource Source, class Policies, class E>
void run_in_two_passes(problem<T> const& p, Source const& source, Policies const& of_call, E& executor) {
  using A = accumulation_t<T>;
  constexpr bool of_hidden = Policies::pair_gain_type::of_hidden;
  static_assert(!of_hidden || std::same_as<typename Policies::mask_type, full>,
                "attend: a weight_function of hidden keys goes without a mask: a score hides them");
  scratch memory;
  problem<T> first = p, second = p;
  if (!first.log_sum_exp.data()) {
    std::array const extents{p.shape.batches, p.shape.query_heads, p.shape.queries};
    first.log_sum_exp = {memory.allocate<A>(extents[0] * extents[1] * extents[2]), extents};
  }
  first.has_values = false;
  first.shape.value_dimension = 0;
  first.value_gain = {};
  attend::detail::absent none;
  using first_policies = policies<typename Policies::mask_type, typename Policies::scores_type,
                                  typename Policies::normalizer_type, typename Policies::position_type>;
  run_tiled(first, source, first_policies{of_call.mask, of_call.scores, of_call.normalizer, of_call.position, none},
            executor);

  auto const scores = std::tuple_cat(of_call.scores, std::tuple(relative_to_rows<A, of_hidden>{first.log_sum_exp}));
  second.log_sum_exp = {};
  second.weights = {};
  second.logits = {};
  second.counts = nullptr;
  known_weights const known;
  using second_policies = policies<typename Policies::mask_type, std::remove_const_t<decltype(scores)>, known_weights,
                                   typename Policies::position_type, typename Policies::pair_gain_type>;
  run_tiled(second, source, second_policies{of_call.mask, scores, known, of_call.position, of_call.pair_gain},
            executor);
}

}  // namespace attend::inline ATTEND_TARGET::engine
