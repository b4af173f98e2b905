// SPDX-License-Identifier: BSD-3-Clause
// Relevance through softmax attention: from that of the output, R_o, to those of queries, keys and values, by the rules
// of layer-wise relevance propagation. With s_ij = scale q_i . k_j, p the weights, o the output and x' = R_x / (z + e)
// the relevance of a product z, divided by it:
//
//   attn_lrp      o'_ic = R_o,ic / (2 o_ic + e)                             values: half to each factor
//                 R_p,ij = p_ij sum_c o'_ic v_jc,   R_v,jc = v_jc sum_i p_ij o'_ic
//                 R_s,ij = s_ij (R_p,ij - p_ij sum_l R_p,il)                softmax: its Taylor series at s
//                 s'_ij = R_s,ij / (2 s_ij + e)                             logits: half to each factor
//                 R_q,ic = scale q_ic sum_j s'_ij k_jc,   R_k,jc = scale k_jc sum_i s'_ij q_ic
//
//   deep_taylor   o'_ic = R_o,ic / (o_ic + e), 0 where o_ic is 0;   R_p and R_v are halves of the above
//                 R_s,ij = R_p,ij                                           softmax: passed on
//                 s'_ij = R_s,ij / (q_i . k_j + e), 0 where the product is 0
//                 R_q,ic = 1/2 q_ic sum_j s'_ij k_jc,   R_k,jc = 1/2 k_jc sum_i s'_ij q_ic
//
// These are gradients times inputs. Let o' be the gradient of the output, a constant: then g_ij = o'_i . v_j is that of
// p_ij, and R_p,ij = p_ij g_ij. So R_s,ij = s_ij p_ij (g_ij - sum_l p_il g_il) is s_ij times the gradient e_ij of the
// logit, and s'_ij = e_ij s_ij / (2 s_ij + e): the gradient through a score whose value is s and whose slope is
// s / (2 s + e), a half for a small e. deep_taylor has the same with a slope of 1 / (4 (s + scale e)), and without the
// sum over l, which the loop has from the output: it is given zeros. What is left are products with q, k and v, one for
// each element.
//
// Relevance is conserved, for a small e, by products: sum R_v = sum R_p = 1/2 sum R_o, and sum R_q = sum R_k =
// 1/2 sum R_s. The softmax of deep_taylor conserves it too, by definition; that of attn_lrp gives part of it to the
// constant term of the series. A bias that is added to logits takes its share of R_s, which is then s_ij as above with
// s_ij the logit before the bias.
//
// Shapes are those of softmax_attention; each relevance has the shape of its tensor. Query heads that share a key or a
// value head add up there.
//
// Cost: that of softmax_attention_backward, and a further tensor of the output's size.
//
// Reduan Achtibat et al.: AttnLRP: Attention-Aware Layer-wise Relevance Propagation for Transformers, 2024
// (propositions 3.1 and 3.3; e keeps its sign, as in the authors' code, and is added to scaled logits). Hila Chefer,
// Shir Gur, Lior Wolf: Transformer Interpretability Beyond Attention Visualization, 2021 (as in the authors' code,
// whose halves are what the paper's normalization of two relevances is for products).
#pragma once

#include "../../core/head_loop.hpp"
#include "softmax_attention_backward.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// The rules of AttnLRP. `epsilon` is above 0.
struct attn_lrp {
  double epsilon = 1e-8;
};

/// The rules of relevance-weighted rollout. `epsilon` is above 0.
struct deep_taylor {
  double epsilon = 1e-9;
};

}  // namespace systems

namespace detail {

/// A score that changes no logit, with the slope of a rule's product of queries and keys.
template <class Rule, class A>
struct relevance_slope {
  using option_kind = option::score;
  static constexpr bool may_hide = false;
  A epsilon;

  void check(problem_shape const&) const {}
  template <class T>
  simd::vector<T> apply(simd::vector<T> const& s, score_place<T> const&) const {
    return s;
  }
  template <class T>
  simd::vector<T> slope(simd::vector<T> const& s, score_place<T> const&) const {
    using vector = simd::vector<T>;
    if constexpr (std::same_as<Rule, attn_lrp>)
      return s / (vector(T(2)) * s + vector(T(epsilon)));
    else
      return simd::select(s == vector(T(0)), vector(T(0)), vector(T(0.25)) / (s + vector(T(epsilon))));
  }
};

/// Divides the relevance of an output by the output, as a rule does.
template <class Rule, class T, class E>
void divide_relevance(tensor_view<T const, 4> const& of_output, tensor_view<T const, 4> const& output,
                      accumulation_t<T> epsilon, tensor_view<T, 4> const& divided, E& executor) {
  using A = accumulation_t<T>;
  index_t const columns = output.extent(3);
  for_tokens(executor, output.extent(0), output.extent(1), output.extent(2), loop_cost::of(4 * columns),
             [&](index_t b, index_t h, index_t first, index_t last) {
               for (index_t i = first; i < last; ++i)
                 for (index_t c = 0; c < columns; ++c) {
                   A const z = static_cast<A>(output(b, h, i, c)), of_z = static_cast<A>(of_output(b, h, i, c));
                   divided(b, h, i, c) = static_cast<T>(std::same_as<Rule, attn_lrp> ? of_z / (2 * z + epsilon)
                                                        : z == 0                     ? A(0)
                                                                                     : of_z / (z + epsilon));
                 }
             });
}

/// to[c] = to[c] * from[c] * factor for the rows of two tensors of one shape.
template <class T, class E>
void multiply_rows(tensor_view<T, 4> const& to, tensor_view<T const, 4> const& from, accumulation_t<T> factor,
                   E& executor) {
  using A = accumulation_t<T>;
  index_t const columns = to.extent(3);
  for_tokens(executor, to.extent(0), to.extent(1), to.extent(2), loop_cost::of(2 * columns),
             [&](index_t b, index_t h, index_t first, index_t last) {
               for (index_t i = first; i < last; ++i)
                 for (index_t c = 0; c < columns; ++c)
                   to(b, h, i, c) =
                       static_cast<T>(factor * static_cast<A>(to(b, h, i, c)) * static_cast<A>(from(b, h, i, c)));
             });
}

}  // namespace detail

namespace systems {

/// Writes the relevance of `query`, `key` and `value`, given that of the output, by the rules of attn_lrp{} or
/// deep_taylor{}. `output` and `log_sum_exp` are those that softmax_attention wrote with the same options. All tensors
/// have one element type, float, double or bfloat16, but the log-sum-exp, which has the accumulation type. Options: a
/// mask, scale, sinks, sequences, executor, and, with attn_lrp, scores that only add to logits, such as bias and alibi.
/// Results have the same bits for any number of threads.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory, an epsilon or an option do not
/// fit.
///
///     softmax_attention(q, k, v, o, causal{}, log_sum_exp(lse));
///     attention_relevance(q, k, v, o, lse, of_o, of_q, of_k, of_v, attn_lrp{}, causal{});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output,
          TensorArgument LogSumExp, TensorArgument OfOutput, TensorArgument OfQuery, TensorArgument OfKey,
          TensorArgument OfValue, class Rule, class... Options>
void attention_relevance(Query const& query, Key const& key, Value const& value, Output const& output,
                         LogSumExp const& log_sum_exp, OfOutput const& of_output, OfQuery&& of_query, OfKey&& of_key,
                         OfValue&& of_value, Rule const& rule, Options&&... options) {
  using T = call::element_of_call<OfQuery, Query, Key, Value, Output, OfOutput, OfKey, OfValue>;
  using A = accumulation_t<T>;
  call::map_options::check<Options...>();
  constexpr bool is_attn_lrp = std::same_as<Rule, attn_lrp>;
  static_assert(is_attn_lrp || std::same_as<Rule, deep_taylor>,
                "attend: rules of relevance are attn_lrp and deep_taylor");
  static_assert(!std::same_as<T, half>,
                "attend: relevance divided by an output leaves the range of halves: take float or bfloat16");
  static_assert((call::keeps_maximum<Options> && ...), "attend: the rules of relevance are those of a softmax");
  static_assert(is_attn_lrp || !detail::has_kind<option::score, Options...>,
                "attend: deep_taylor has no rule for scores");
  static_assert(
      ((!detail::has_kind<option::score, Options> || detail::KeepsSlope<std::remove_cvref_t<Options>>) && ...),
      "attend: attn_lrp has a rule for scores that only add to logits (keeps_slope)");
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value)),
                                o = raise<4>(view_of(output)), of_o = raise<4>(view_of(of_output));
  tensor_view<T, 4> const of_q = raise<4>(view_of(of_query)), of_k = raise<4>(view_of(of_key)),
                          of_v = raise<4>(view_of(of_value));
  problem_shape shape = call::checked_shape<T>(q, k);
  call::check_value<T>(v, shape);
  detail::check_view("output", o);
  call::check_extents_of_output("output", o, shape);
  detail::check_view("of_output", of_o);
  call::check_extents_of_output("of_output", of_o, shape);
  auto& executor = call::executor_of(options...);
  A const scale = detail::scale_or<A>(detail::usual_scale(shape.key_dimension), options...);
  A const epsilon = static_cast<A>(rule.epsilon);
  if (!(epsilon > 0) || !std::isfinite(epsilon)) fail("rule", "expected an epsilon above 0, got ", rule.epsilon);

  arithmetic_mode const arithmetic;
  scratch memory;
  index_t const columns = shape.value_dimension;
  tensor_view<T, 4> const divided(memory.allocate<T>(shape.batches * shape.query_heads * shape.queries * columns),
                                  o.extents());
  detail::divide_relevance<Rule>(of_o, o, epsilon, divided, executor);
  tensor_view<T const, 4> summed = o;
  if constexpr (!is_attn_lrp) {
    T* const zeros = memory.allocate<T>(columns);
    std::fill_n(zeros, columns, T(0));
    summed = {zeros, o.extents(), {0, 0, 0, 1}};
  }
  detail::relevance_slope<Rule, A> const slope{is_attn_lrp ? epsilon : scale * epsilon};
  softmax_attention_backward(q, k, v, summed, log_sum_exp, divided, of_q, of_k, of_v, slope, options...);
  detail::multiply_rows<T>(of_q, q, A(1), executor);
  detail::multiply_rows<T>(of_k, k, A(1), executor);
  detail::multiply_rows<T>(of_v, v, is_attn_lrp ? A(1) : A(0.5), executor);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
