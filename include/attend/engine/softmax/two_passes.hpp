// SPDX-License-Identifier: BSD-3-Clause
// Functions of normalized weights, which must be known before the function is applied: two passes over the keys.
//
//   first    without values: the log-sum-exp l_i of each row, and the weights and logits that the caller asked for
//   second   p_ij = exp(s_ij - l_i), the function of p_ij, and the sum over values
//
// A hidden key takes part in neither pass, unless the function is to be applied to keys that a score hides (of_hidden):
// their weight is then 0.
//
// known_weights.hpp has the policies of the second pass.
#pragma once

#include "known_weights.hpp"
#include "tiled.hpp"

namespace attend::inline ATTEND_TARGET::engine {

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

  auto const scores = scores_of_weights<of_hidden, A>(of_call.scores, first.log_sum_exp);
  second.log_sum_exp = {};
  second.weights = {};
  second.logits = {};
  second.statistics = {};
  second.counts = nullptr;
  known_weights<true> const known;
  using second_policies =
      policies<typename Policies::mask_type, std::remove_const_t<decltype(scores)>, known_weights<true>,
               typename Policies::position_type, typename Policies::pair_gain_type>;
  run_tiled(second, source, second_policies{of_call.mask, scores, known, of_call.position, of_call.pair_gain},
            executor);
}

}  // namespace attend::inline ATTEND_TARGET::engine
