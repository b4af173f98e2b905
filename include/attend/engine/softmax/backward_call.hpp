// SPDX-License-Identifier: BSD-3-Clause
// A backward call: what must be known of rows before, and then the tasks of backward.hpp.
//
// Softmax has its log-sum-exps from the forward call. Weights that are divided by their sum or count have nothing of
// the kind: a forward pass without values finds what each row is divided by, which is one product more.
#pragma once

#include "backward.hpp"
#include "tiled.hpp"

namespace attend::inline ATTEND_TARGET::engine {

template <wanted_of_scores Wanted = wanted_of_scores{}, Element T, class Policies, class E>
void run_backward(problem<T> const& p, gradients<T> g, Policies const& policies, E& executor) {
  using A = accumulation_t<T>;
  scratch memory;
  if constexpr (requires { policies.normalizer.divides(); })
    if (policies.normalizer.divides()) {
      // What rows are divided by is not among the outputs of a call: one more product tells it.
      problem<T> sums = p;
      std::array const extents{p.shape.batches, p.shape.query_heads, p.shape.queries};
      sums.log_sum_exp = {memory.allocate<A>(extents[0] * extents[1] * extents[2]), extents};
      sums.value_gain = {};
      sums.has_values = false;
      sums.shape.value_dimension = 0;
      attend::detail::absent none;
      engine::policies<typename Policies::mask_type, typename Policies::scores_type, typename Policies::normalizer_type,
                       typename Policies::position_type> const without_gain{
          policies.mask, policies.scores, policies.normalizer, policies.position, none};
      run_tiled(sums, problem_rows(sums), without_gain.in(policies.order), executor);
      g.log_sum_exp = {sums.log_sum_exp.data(), extents};
    }
  erased_backward_policies<A, Policies, Wanted> const call(policies);
  run_backward_tasks(p, g, call, attend::detail::any_executor(executor));
}

}  // namespace attend::inline ATTEND_TARGET::engine
