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
// the key; its weight, 0, goes through prob_mod too, as the operator has it: attend::weight_function leaves hidden keys
// alone.
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

}  // namespace onnx

namespace detail {

/// s -> modifier(exp(s - log_sum_exp of the row)): the weight that a row's softmax gives, changed.
template <class A, class Modifier>
class modified_weight {
 public:
  using option_kind = option::score;
  static constexpr bool may_hide = false;

  modified_weight(Modifier const& modifier, tensor_view<A const, 3> const& log_sum_exp)
      : modifier_(&modifier), log_sum_exp_(log_sum_exp) {}

  void check(problem_shape const&) const {}
  auto bind(tile_rows<A> const& rows, key_range) const {
    return [modifier = modifier_, denominator = lane_values<A>([&](int lane) {
                                    return log_sum_exp_(rows.batch, rows.head[lane], rows.query_token(lane));
                                  })](simd::vector<A> const& s, score_place<A> const& place) {
      simd::vector<A> const hidden(-infinity<A>), none(A(0));
      auto const weight = simd::exp2<A>((s - denominator.at(place.lane)) * simd::vector<A>(A(log2_e)));
      return simd::vector<A>((*modifier)(simd::select(s == hidden, none, weight), place));
    };
  }

 private:
  Modifier const* modifier_;
  tensor_view<A const, 3> log_sum_exp_;
};

/// Logits that are weights already.
struct given_weights {
  using option_kind = option::normalizer;
  static constexpr bool keeps_maximum = false;
  static constexpr bool has_mass = false;

  void check(problem_shape const&) const {}
  template <class T>
  ATTEND_INLINE simd::vector<T> weight(simd::vector<T> const& s, simd::vector<T> const&) const {
    return s;
  }
  template <class T>
  T factor(T) const {
    return 1;
  }
};

}  // namespace detail

namespace onnx {

/// Flexible attention of ONNX:
///
///   onnx::flex_attention(q, k, v, y, {.scale = 0.1}, [](auto s, auto const& at) { return s + at.key_position; });
///   onnx::flex_attention(q, k, v, y, {}, onnx::unmodified{}, [](auto p, auto const&) { return p * p; });
///
/// All tensors have four axes and one element type: float, double, half or bfloat16. Throws argument_error, before
/// anything is written, where shapes, strides, memory or an attribute do not fit.
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output,
          class ScoreModifier = unmodified, class WeightModifier = unmodified, Executor E = serial>
void flex_attention(Query const& Q, Key const& K, Value const& V, Output&& Y,
                    flex_attention_attributes const& attributes = {}, ScoreModifier const& score_mod = {},
                    WeightModifier const& prob_mod = {}, E&& executor = {}) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
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
    // All checks before the first pass, whose result is the library's own memory.
    auto problem = attend::detail::tensor_problem<T>(q, k, v, y);
    attend::detail::check_memory(problem);
    scratch memory;
    tensor_view<A, 3> const rows(memory.allocate<A>(q.extent(0) * q.extent(1) * q.extent(2) + 1),
                                 {q.extent(0), q.extent(1), q.extent(2)});
    attend::detail::run_without_values(q, k, log_sum_exp(rows), factor, changed, executor);
    softmax_attention(q, k, v, y, factor, changed, attend::detail::modified_weight<A, WeightModifier>(prob_mod, rows),
                      attend::detail::given_weights{}, executor);
  }
}

}  // namespace onnx
}  // namespace attend::inline ATTEND_TARGET
