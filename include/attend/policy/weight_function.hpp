// SPDX-License-Identifier: BSD-3-Clause
// A function of the weight that the caller writes: what stands between the softmax and the values.
//
//   o_i = sum_j f(p_ij, place) v_j       p_ij the weight as it is known at the end, sinks in its denominator included
//
//   attend::weight_function([](auto p, auto const&) { return p * p; })
//   attend::weight_function([](auto p, auto const& at) { return attend::select(at.key_position < 4, p, 0.5f * p); })
//
// The function is generic: it is called with vectors, and places as those of a score (policy/score/score.hpp). Nothing
// is normalized again. It is asked about every visible pair, also where the weight is so small that it is 0; a hidden
// key has no influence, whatever f(0) is.
//
// A function may be anything, so that weights must be known before it is called: the keys are taken twice, once for the
// log-sum-exp of each row and once more for the values. That is about one and a half times the work of plain attention,
// and one number for each query and head. A gain that multiplies weights, whatever they are, does without
// (pair_gain.hpp). The normalizer is a softmax, with or without sinks; there are no slots.
//
// ONNX's FlexAttention, its attribute prob_mod.
#pragma once

#include <utility>

#include "../core/options.hpp"
#include "tile.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// A function of the weight that the caller writes; it is applied between the softmax and the values.
///
///     softmax_attention(q, k, v, o, weight_function([](auto p, auto const&) { return p * p; }));
template <class Function, bool OfHidden = false>
class weight_function {
 public:
  using option_kind = option::pair_gain;
  static constexpr bool of_weights = true, of_hidden = OfHidden;

  constexpr explicit weight_function(Function function) : function_(std::move(function)) {}

  /// The same, asked about keys that a score hides as well: their weight is 0, and what it makes of that counts. It
  /// goes without a mask.
  constexpr weight_function<Function, true> of_hidden_keys() const {
    return weight_function<Function, true>(function_);
  }

  void check(extend::problem_shape const&) const {}
  template <class T>
  auto bind(extend::tile_rows<T> const&, extend::key_range) const {
    return [this](simd::vector<T> const& weight, extend::score_place<T> const& place)
               ATTEND_INLINE_LAMBDA { return simd::vector<T>(function_(weight, place)); };
  }

 private:
  Function function_;
};

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
