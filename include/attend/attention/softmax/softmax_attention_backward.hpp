// SPDX-License-Identifier: BSD-3-Clause
// The gradients of softmax attention: from that of the output to those of queries, keys and values.
//
//   p_ij = exp(s_ij - lse_i),  o_i = sum_j p_ij v_j                        as the forward call has it
//   g_ij = do_i . v_j,         delta_i = do_i . o_i = sum_j p_ij g_ij
//   e_ij = p_ij (g_ij - delta_i) * (the derivatives of the scores)         (another normalizer: its derivative * g_ij)
//   dq_i = scale sum_j e_ij k_j,   dk_j = scale sum_i e_ij q_i,   dv_j = sum_i p_ij do_i
//
// Shapes are those of softmax_attention; each gradient has the shape of its tensor. Query heads that share a key or a
// value head add up there. A pair that the mask hides adds nothing, whatever its rows hold.
//
// Five products where the forward call has two: 2.5 times its work. The weights are computed again from the tensors and
// the log-sum-exp: memory for a few tiles per thread; for tensors of 16-bit elements, besides, gradients in float.
//
// Tri Dao, Daniel Y. Fu, Stefano Ermon, Atri Rudra, Christopher Re: FlashAttention, 2022 (algorithm 4).
#pragma once

#include "../../call/problem.hpp"
#include "../../engine/softmax/backward.hpp"
#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace call {

using backward_options = allows<option::mask, option::score, option::scale, option::normalizer, option::sequences,
                                option::precision, option::executor>;

template <class Option, class A>
consteval bool has_gradient() {
  using type = std::remove_cvref_t<Option>;
  if constexpr (detail::has_kind<option::score, type>)
    static_assert(detail::HasSlope<type, A>,
                  "attend: a score needs its derivative for a gradient: keeps_slope, slope(s, place) or "
                  "bind_slope(rows, range); a function of the caller's is given as score_with_slope");
  return true;
}

/// Checks the tensors of a backward call besides those of the forward call.
template <Element T>
void check_gradients(engine::problem<T> const& p, engine::gradients<T> const& g, bool normalized) {
  using namespace detail;
  problem_shape const& shape = p.shape;
  check_view("output", g.output);
  check_extents_of_output("output", g.output, shape);
  check_view("of_output", g.of_output);
  check_extents_of_output("of_output", g.of_output, shape);
  if (normalized) {
    check_view("log_sum_exp", g.log_sum_exp);
    check_extent("log_sum_exp", "batch", g.log_sum_exp.extent(0), shape.batches, "query");
    check_extent("log_sum_exp", "heads", g.log_sum_exp.extent(1), shape.query_heads, "query");
    check_extent("log_sum_exp", "tokens", g.log_sum_exp.extent(2), shape.queries, "query");
  }
  auto const check_shape = [](char const* argument, auto const& gradient, char const* of, auto const& tensor) {
    check_output_view(argument, gradient);
    check_extent(argument, "batch", gradient.extent(0), tensor.extent(0), of);
    check_extent(argument, "heads", gradient.extent(1), tensor.extent(1), of);
    check_extent(argument, "tokens", gradient.extent(2), tensor.extent(2), of);
    check_extent(argument, "head dimension", gradient.extent(3), tensor.extent(3), of);
  };
  check_shape("of_query", g.of_query, "query", p.query);
  check_shape("of_key", g.of_key, "key", p.key);
  check_shape("of_value", g.of_value, "value", p.value);
  auto const log_sum_exp = raise<4>(g.log_sum_exp);
  named_layout const written[] = {{"of_query", g.of_query}, {"of_key", g.of_key}, {"of_value", g.of_value}};
  named_layout const read[] = {{"query", p.query},         {"key", p.key},
                               {"value", p.value},         {"output", g.output},
                               {"of_output", g.of_output}, {"log_sum_exp", log_sum_exp}};
  check_apart(written, read);
}

}  // namespace call

namespace options {

/// Writes the gradients of `query`, `key` and `value`, given that of the output. `output` and `log_sum_exp` are those
/// that softmax_attention wrote with the same options; a normalizer other than softmax has no log-sum-exp, and its call
/// leaves the argument empty: tensor_view<float, 3>(). All tensors have one element type but the log-sum-exp, which has
/// the accumulation type. Options: a mask, scores whose derivatives are known, scale, normalizer, sequences,
/// full_precision, executor. Results have the same bits for any number of threads.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     softmax_attention(q, k, v, o, causal{}, log_sum_exp(lse));
///     softmax_attention_backward(q, k, v, o, lse, of_o, of_q, of_k, of_v, causal{});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output,
          TensorArgument LogSumExp, TensorArgument OfOutput, TensorArgument OfQuery, TensorArgument OfKey,
          TensorArgument OfValue, class... Options>
void softmax_attention_backward(Query const& query, Key const& key, Value const& value, Output const& output,
                                LogSumExp const& log_sum_exp, OfOutput const& of_output, OfQuery&& of_query,
                                OfKey&& of_key, OfValue&& of_value, Options&&... options) {
  using namespace detail;
  using T = typename call::written_element_type<OfQuery, Query, Key, Value, Output, OfOutput, OfKey, OfValue>::type;
  using A = accumulation_t<T>;
  static_assert((call::has_gradient<Options, A>() && ...));
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  engine::problem<T> problem(q, k, call::checked_shape<T>(q, k));
  problem.value = v;
  call::check_value<T>(v, problem.shape);
  engine::gradients<T> const g{raise<4>(view_of(output)),      raise<4>(view_of(of_output)),
                               raise<3>(view_of(log_sum_exp)), raise<4>(view_of(of_query)),
                               raise<4>(view_of(of_key)),      raise<4>(view_of(of_value))};
  auto plan = call::plan<call::backward_options>(problem, options...);
  auto const policies = plan.policies();
  constexpr bool normalized = decltype(policies)::normalizer_type::keeps_maximum;
  if constexpr (requires { policies.normalizer.check_gradient(); }) policies.normalizer.check_gradient();
  call::check_gradients(plan.problem, g, normalized);
  arithmetic_mode const arithmetic;
  engine::run_backward(plan.problem, g, policies, plan.executor);
}

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
