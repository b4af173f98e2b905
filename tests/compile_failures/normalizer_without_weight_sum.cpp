// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a normalizer that has_weight_sum needs weight_sum<T>(s, weight) const
// A normalizer of the user's own that lacks a member.
#include <attend/softmax.hpp>

struct unit_weights {
  using option_kind = attend::option::normalizer;
  static constexpr bool keeps_maximum = false, has_weight_sum = true;
  void check(attend::extend::problem_shape const&) const {}
  template <class T>
  auto weight(attend::simd::vector<T> const& s, attend::simd::vector<T> const&) const {
    return s;
  }
  template <class T>
  T factor(T sum) const {
    return 1 / sum;
  }
};

void call(attend::tensor_view<float, 4> const& t) { attend::softmax_attention(t, t, t, t, unit_weights{}); }
