// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a decay needs kind, a static constexpr decay_kind
// A decay of the user's own that lacks a member.
#include <attend/linear.hpp>

struct halving {
  using option_kind = attend::option::decay;
  void check(attend::extend::state_shape const&) const {}
};

void call(attend::tensor_view<float, 4> const& t) { attend::linear_attention(t, t, t, t, halving{}); }
