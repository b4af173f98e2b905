// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: an update that has_rates needs read(batch, head, first, count, to) const
// An update of the user's own that lacks a member.
#include <attend/linear.hpp>

struct rates {
  using option_kind = attend::option::update;
  static constexpr bool reads_state = false, has_rates = true;
  void check(attend::extend::state_shape const&) const {}
};

void call(attend::tensor_view<float, 4> const& t) { attend::linear_attention(t, t, t, t, rates{}); }
