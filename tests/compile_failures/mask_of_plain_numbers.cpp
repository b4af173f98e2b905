// SPDX-License-Identifier: BSD-3-Clause
// expect: attend: a mask's positions are vectors, not numbers
// A function of two numbers is not called for each pair.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/predicate.hpp>

void call(attend::tensor_view<float, 4> const& t) {
  attend::softmax_attention(t, t, t, t, attend::mask([](long i, long j) { return i >= j; }));
}
