// SPDX-License-Identifier: BSD-3-Clause
// A plan that is run, and followed by a second pass over its pairs for what is added up for keys.
#pragma once

#include "../engine/softmax/key_sums.hpp"
#include "plan.hpp"

namespace attend::inline ATTEND_TARGET::call {

/// Runs a plan, and then adds up what is wanted of its weights. A call without values runs for its rows alone.
template <class Plan, KeyValueSource Source, Element T>
void run_with_key_sums(Plan& plan, Source const& source, engine::key_sums<T> wanted) {
  arithmetic_mode const arithmetic;
  auto& p = plan.problem;
  auto const policies = plan.policies();
  scratch memory;
  engine::keep_rows<typename decltype(policies)::normalizer_type>(p, wanted, memory);
  if (p.has_values)
    run(plan, source);
  else
    engine::run_tiled(p, source, policies, plan.executor);
  engine::run_key_sums(p, source, wanted, policies, plan.executor);
}

/// What the option key_mass wants.
template <Element T, class... Options>
engine::key_sums<T> wanted_mass(engine::problem<T> const& p, Options const&... options) {
  detail::absent const none;
  engine::key_sums<T> wanted;
  wanted.mass = p.key_mass;
  wanted.of = detail::find_option<option::key_mass>(none, options...).queries;
  return wanted;
}

}  // namespace attend::inline ATTEND_TARGET::call
