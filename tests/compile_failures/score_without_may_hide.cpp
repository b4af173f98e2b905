// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a score needs may_hide, a static constexpr bool
// A score of the user's own that lacks a member.
#include <attend/softmax.hpp>

struct halved {
  using option_kind = attend::option::score;
  void check(attend::extend::problem_shape const&) const {}
  template <class T>
  auto apply(attend::simd::vector<T> const& s, attend::extend::score_place<T> const&) const {
    return s * attend::simd::vector<T>(T(0.5));
  }
};

void call(attend::tensor_view<float, 4> const& t) { attend::softmax_attention(t, t, t, t, halved{}); }
