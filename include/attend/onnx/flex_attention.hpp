// SPDX-License-Identifier: BSD-3-Clause
// ONNX's FlexAttention as one call: attention whose logits and weights go through functions of the caller.
//
//   Y = prob_mod(softmax(score_mod(scale * Q.K))) . V
//
//   Q [batch, q head, q, d], K [batch, kv head, kv, d], V [batch, kv head, kv, dv], Y [batch, q head, q, dv]
//
// The operator's subgraphs take and give the whole tensor of pairs. Here they are functions of a pair, called with
// vectors of them: score_mod(s, at) of the logit, prob_mod(p, at) of the weight. at.query_index(), at.key_position,
// at.head() and at.batch() say which pairs they are, the first three as numbers of the type of s. A score of -inf hides
// the key; its weight, 0, goes through prob_mod too, as the operator has it: attend::weight_function by itself leaves
// hidden keys alone.
//
//   [](auto s, auto const& at) { return attend::select(at.query_index() >= at.key_position, s, decltype(s)(-INFINITY));
//   }
//
// A query that sees no key has weights of 0, where the operator leaves NaN. softmax_precision: precision.hpp.
//
// Cost: that of softmax_attention. A prob_mod needs the rows' denominators first: queries and keys are multiplied
// twice.
#pragma once

#include "../attention/softmax/softmax_attention.hpp"
#include "../policy/functions.hpp"
#include "../policy/weight_function.hpp"
#include "precision.hpp"

namespace attend::inline ATTEND_TARGET {
namespace onnx {

/// The operator's attributes, with its names and defaults.
struct flex_attention_attributes {
  /// 1/sqrt(d) unless given.
  std::optional<double> scale = {};
  /// ONNX's number of a type: 1 float, 10 half, 11 double, 16 bfloat16.
  std::optional<index_t> softmax_precision = {};
};

/// A modifier that is left out.
struct unmodified {
  template <class X, class Place>
  X operator()(X const& x, Place const&) const {
    return x;
  }
};

/// Flexible attention of ONNX, with functions of the logits and of the weights. All tensors have four axes and one
/// element type: float, double, half or bfloat16.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an attribute do not fit.
///
///     onnx::flex_attention(q, k, v, o, {.scale = 0.1}, [](auto s, auto const& at) { return s + at.key_position; });
///     onnx::flex_attention(q, k, v, o, {}, onnx::unmodified{}, [](auto p, auto const&) { return p * p; });
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output,
          class ScoreModifier = unmodified, class WeightModifier = unmodified, Executor E = serial>
void flex_attention(Query const& Q, Key const& K, Value const& V, Output&& Y,
                    flex_attention_attributes const& attributes = {}, ScoreModifier const& score_mod = {},
                    WeightModifier const& prob_mod = {}, E&& executor = {}) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  static_assert(
      rank_of<Query const> == 4 && rank_of<Key const> == 4 && rank_of<Value const> == 4 && rank_of<Output> == 4,
      "attend: expected [batch, head, token, dimension]");
  attend::detail::check_precision(attributes.softmax_precision);
  tensor_view<T const, 4> const q = view_of(Q), k = view_of(K), v = view_of(V);
  tensor_view<T, 4> const y = view_of(Y);
  attend::scale const factor(attributes.scale.value_or(attend::detail::usual_scale(q.extent(3))));
  attend::score const changed(score_mod);
  attend::detail::check_extent("V", "heads", v.extent(1), k.extent(1), "K");
  if constexpr (std::same_as<WeightModifier, unmodified>) {
    if constexpr (std::same_as<ScoreModifier, unmodified>)
      softmax_attention(q, k, v, y, factor, executor);
    else
      softmax_attention(q, k, v, y, factor, changed, executor);
  } else {
    weight_function const weighed([&](auto const& p, auto const& at) { return prob_mod(p, at); });
    softmax_attention(q, k, v, y, factor, changed, weighed.of_hidden_keys(), executor);
  }
}

}  // namespace onnx
}  // namespace attend::inline ATTEND_TARGET
