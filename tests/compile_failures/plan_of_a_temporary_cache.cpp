// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a plan refers to a cache: keep it in a variable
#include <attend/cache/contiguous.hpp>
#include <attend/call/kept_plan.hpp>

void call(attend::tensor_view<float, 4> const& x, attend::tensor_view<float, 4> const& y) {
  auto step = attend::plan(x, attend::caches::key_value_tensors<float>(x, x), y);
  step.run();
}
