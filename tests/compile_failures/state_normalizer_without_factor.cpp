// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a normalizer of a state that sums keys, or needs whole rows, needs factor(number) const
// A normalizer of the user's own that lacks a member.
#include <attend/linear.hpp>

struct by_sum {
  using option_kind = attend::option::state_normalizer;
  static constexpr bool sums_keys = true, whole_rows = false;
  void check() const {}
};

void call(attend::tensor_view<float, 4> const& t) { attend::linear_attention(t, t, t, t, by_sum{}); }
