// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a feature map needs fill(rows, to, stride) const
// A feature map of the user's own that lacks a member.
#include <attend/linear.hpp>

struct copied {
  using option_kind = attend::option::features;
  attend::index_t features(attend::index_t dimension) const { return dimension; }
  void check(attend::extend::state_shape const&) const {}
};

void call(attend::tensor_view<float, 4> const& t) { attend::linear_attention(t, t, t, t, copied{}); }
