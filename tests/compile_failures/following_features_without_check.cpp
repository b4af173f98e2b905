// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a feature map that follows the sequence needs check(shape, causal) const
// A map that says by `resumes` that it follows the sequence is asked for other members.
#include <attend/linear.hpp>

struct following {
  using option_kind = attend::option::features;
  static constexpr bool resumes = false, sums_keys = false;
  attend::index_t features(attend::index_t dimension) const { return dimension; }
  void check(attend::extend::state_shape const&) const {}
};

void call(attend::tensor_view<float, 4> const& t) { attend::linear_attention(t, t, t, t, following{}); }
