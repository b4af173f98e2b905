// SPDX-License-Identifier: BSD-3-Clause
// Softcap: s -> cap * tanh(s / cap), which keeps logits between -cap and cap.
//
// Gemma Team: Gemma 2, Improving Open Language Models at a Practical Size, 2024.
#pragma once

#include "../../core/check.hpp"
#include "score.hpp"

namespace attend::inline ATTEND_TARGET::options {

/// Keeps logits between -cap and cap. A call throws argument_error where the cap is not from 1e-30 to 1e30.
///
///     softmax_attention(q, k, v, o, causal{}, softcap{50.});
struct softcap {
  using option_kind = option::score;
  static constexpr bool may_hide = false;

  /// The bound of logits. From 1e-30 to 1e30 it and its inverse are numbers in every type.
  double cap;
  constexpr explicit softcap(double most) : cap(most) {}

  void check(problem_shape const&) const {
    detail::check_finite("softcap", cap);
    if (cap < 1e-30 || cap > 1e30) fail("softcap", "expected a cap from 1e-30 to 1e30, got ", cap);
  }
  template <class T>
  simd::vector<T> apply(simd::vector<T> const& s, score_place<T> const&) const {
    return simd::tanh<T>(s * simd::vector<T>(T(1 / cap))) * simd::vector<T>(T(cap));
  }
  template <class T>
  simd::vector<T> slope(simd::vector<T> const& s, score_place<T> const&) const {
    simd::vector<T> const t = simd::tanh<T>(s * simd::vector<T>(T(1 / cap)));
    return simd::vector<T>(T(1)) - t * t;
  }
};

}  // namespace attend::inline ATTEND_TARGET::options
