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
// Options have gradients too, where they are asked for (policy/gradient_of.hpp); and where a loss depends on the
// log-sum-exp, delta_i is less by the gradient of lse_i.
//
// Five products where the forward call has two: 2.5 times its work. The weights are computed again from the tensors and
// the log-sum-exp: memory for a few tiles per thread; for tensors of 16-bit elements, besides, gradients in float.
//
// Tri Dao, Daniel Y. Fu, Stefano Ermon, Atri Rudra, Christopher Re: FlashAttention, 2022 (algorithm 4).
#pragma once

#include "../../call/problem.hpp"
#include "../../engine/softmax/backward_call.hpp"
#include "../../policy/gradient_of.hpp"
#include "../../policy/normalizer/sinks.hpp"
#include "../../policy/score/bias.hpp"
#include "../../policy/score/logit_scale.hpp"
#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace call {

/// The options of named systems that call both attention and its gradients.
using map_options = allows<option::mask, option::score, option::scale, option::normalizer, option::sequences,
                           option::precision, option::executor>;

using backward_options =
    allows<option::mask, option::score, option::scale, option::normalizer, option::position, option::sequences,
           option::value_gain, option::pair_gain, option::head_gates, option::precision, option::executor,
           option::of_log_sum_exp, option::gradient_of_bias, option::gradient_of_logit_scale, option::gradient_of_sinks,
           option::gradient_of_value_gain, option::gradient_of_head_gates>;

template <class Option, class A>
consteval bool has_gradient() {
  using type = std::remove_cvref_t<Option>;
  if constexpr (detail::has_kind<option::score, type>)
    static_assert(detail::HasSlope<type, A>,
                  "attend: a score needs its derivative for a gradient: keeps_slope, slope(s, place) or "
                  "bind_slope(rows, range); a function of the caller's is given as score_with_slope");
  if constexpr (detail::has_kind<option::pair_gain, type>)
    static_assert(!WeightFunction<type>, "attend: a weight_function has no derivative: no gradient goes through it");
  if constexpr (detail::has_kind<option::position, type>)
    static_assert(
        requires(type const& position, attending_place const& at, A* buffer) {
          { position.query_rotation(at, buffer) } -> std::same_as<options::rotation<A>>;
        } && !detail::differs_by_head<type>, "attend: gradients go through rotary and rotary_queries alone");
  return true;
}

/// Calls check(name, tensor) with the numbers of an option that a backward call reads while it writes, if it has some.
template <class Option, class Check>
void check_numbers_of(Option const& option, Check const& check) {
  if constexpr (requires { option.pairs(); })
    check("bias", option.pairs());
  else if constexpr (requires { option.factors().view(); })
    check("the logit scale", raise<4>(option.factors().view()));
  else if constexpr (requires { option.logits().data(); })
    check("sinks", raise<4>(option.logits()));
  else if constexpr (requires { option.gains; })
    check("value_gain", raise<4>(option.gains));
  else if constexpr (requires { option.gates; })
    check("head_gates", raise<4>(option.gates));
}

/// Checks the tensors of a backward call besides those of the forward call.
template <Element T, class... Options>
void check_gradients(engine::problem<T> const& p, engine::gradients<T> const& g, bool normalized,
                     Options const&... options) {
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
  auto const log_sum_exp = raise<4>(g.log_sum_exp), of_log_sum_exp = raise<4>(g.of_options.of_log_sum_exp);
  auto const of_logit_scale = raise<4>(g.of_options.logit_scale), of_sinks = raise<4>(g.of_options.sinks);
  auto const of_value_gain = raise<4>(g.of_options.value_gain), of_head_gates = raise<4>(g.of_options.head_gates);
  named_layout const written[] = {{"of_query", g.of_query},
                                  {"of_key", g.of_key},
                                  {"of_value", g.of_value},
                                  {"gradient_of_bias", g.of_options.bias},
                                  {"gradient_of_logit_scale", of_logit_scale},
                                  {"gradient_of_sinks", of_sinks},
                                  {"gradient_of_value_gain", of_value_gain},
                                  {"gradient_of_head_gates", of_head_gates}};
  named_layout const read[] = {{"query", p.query},
                               {"key", p.key},
                               {"value", p.value},
                               {"output", g.output},
                               {"of_output", g.of_output},
                               {"log_sum_exp", log_sum_exp},
                               {"of_log_sum_exp", of_log_sum_exp}};
  check_apart(written, read);
  [[maybe_unused]] auto const check_option = [&](char const* argument, auto const& numbers) {
    if (view_layout(numbers).empty()) return;
    for (named_layout const& output : written)
      if (!output.layout.empty()) check_apart(output.argument, output.layout, argument, numbers);
  };
  (check_numbers_of(options, check_option), ...);
}

/// Checks a tensor that holds the gradient of an option, which has these extents.
template <Element T, class G, int Rank>
void check_gradient_of(char const* argument, tensor_view<G, Rank> const& gradient,
                       std::array<index_t, static_cast<std::size_t>(Rank)> const& expected, char const* option) {
  static_assert(std::same_as<G, accumulation_t<T>>,
                "attend: gradients of options hold the accumulation type: float, or double for tensors of double");
  detail::check_output_view(argument, gradient);
  if (gradient.extents() != expected)
    fail(argument, "expected shape ", detail::shape_text<Rank>(expected), " (as ", option, "), got ",
         detail::shape_text<Rank>(gradient.extents()));
}

/// The one score whose gradient is of that kind.
template <class Kind, class... Options>
auto const& score_with_gradient(Options const&... options) {
  constexpr int count = (0 + ... + int(detail::gradient_is<Kind, Options>));
  static_assert(count > 0, "attend: the gradient of an option is asked for that is not given");
  static_assert(count < 2, "attend: the gradient of a score is asked for that is given more than once");
  return *std::get<0>(std::tuple_cat([&] {
    if constexpr (detail::gradient_is<Kind, Options>)
      return std::tuple<Options const*>(&options);
    else
      return std::tuple<>();
  }()...));
}

/// Checks the tensors of gradients of options, and gives them.
template <Element T, class... Options>
engine::option_gradients<accumulation_t<T>> checked_option_gradients(engine::problem<T> const& p,
                                                                     Options const&... options) {
  using A = accumulation_t<T>;
  detail::absent const none;
  engine::option_gradients<A> g;
  if constexpr (detail::has_kind<option::of_log_sum_exp, Options...>) {
    static_assert((keeps_maximum<Options> && ...), "attend: log_sum_exp is known for softmax only");
    auto const& rows = detail::find_option<option::of_log_sum_exp>(none, options...).rows;
    static_assert(std::same_as<std::remove_cvref_t<decltype(rows)>, tensor_view<A const, 3>>,
                  "attend: of_log_sum_exp holds the accumulation type: float, or double for tensors of double");
    detail::check_view("of_log_sum_exp", rows);
    detail::check_extent("of_log_sum_exp", "batch", rows.extent(0), p.shape.batches, "query");
    detail::check_extent("of_log_sum_exp", "heads", rows.extent(1), p.shape.query_heads, "query");
    detail::check_extent("of_log_sum_exp", "tokens", rows.extent(2), p.shape.queries, "query");
    g.of_log_sum_exp = rows;
  }
  if constexpr (detail::has_kind<option::gradient_of_bias, Options...>) {
    auto const& bias = score_with_gradient<option::gradient_of_bias>(options...);
    auto const& to = detail::find_option<option::gradient_of_bias>(none, options...).rows;
    check_gradient_of<T>("gradient_of_bias", to, bias.pairs().extents(), "bias");
    detail::check_apart("gradient_of_bias", to, "bias", bias.pairs());
    g.bias = to;
    g.bias_is_padded = bias.is_padded();
  }
  if constexpr (detail::has_kind<option::gradient_of_logit_scale, Options...>) {
    auto const& factors = score_with_gradient<option::gradient_of_logit_scale>(options...).factors();
    auto const& to = detail::find_option<option::gradient_of_logit_scale>(none, options...).factors;
    tensor_view<A, 3> raised = raise<3>(to);
    if constexpr (std::remove_cvref_t<decltype(to)>::rank == 1)
      if (factors.is_of_heads()) raised = {to.data(), {1, to.extent(0), 1}, {0, to.stride(0), 0}};
    check_gradient_of<T>("gradient_of_logit_scale", raised, factors.view().extents(), "the logit scale");
    detail::check_apart("gradient_of_logit_scale", raised, "the logit scale", factors.view());
    g.logit_scale = raised;
  }
  if constexpr (detail::has_kind<option::gradient_of_sinks, Options...>) {
    auto const& sinks = detail::find_option<option::normalizer>(none, options...);
    static_assert(requires { sinks.count(); }, "attend: gradient_of_sinks goes with sinks");
    auto const& to = detail::find_option<option::gradient_of_sinks>(none, options...).logits;
    check_gradient_of<T>("gradient_of_sinks", to, {sinks.count()}, "sinks");
    if (sinks.logits().data()) detail::check_apart("gradient_of_sinks", to, "sinks", sinks.logits());
    g.sinks = to;
  }
  if constexpr (detail::has_kind<option::gradient_of_value_gain, Options...>) {
    static_assert(detail::has_kind<option::value_gain, Options...>,
                  "attend: gradient_of_value_gain goes with value_gain");
    g.value_gain = detail::find_option<option::gradient_of_value_gain>(none, options...).rows;
    check_gradient_of<T>("gradient_of_value_gain", g.value_gain, p.value_gain.extents(), "value_gain");
    detail::check_apart("gradient_of_value_gain", g.value_gain, "value_gain", p.value_gain);
  }
  if constexpr (detail::has_kind<option::gradient_of_head_gates, Options...>) {
    static_assert(detail::has_kind<option::head_gates, Options...>,
                  "attend: gradient_of_head_gates goes with head_gates");
    g.head_gates = detail::find_option<option::gradient_of_head_gates>(none, options...).rows;
    check_gradient_of<T>("gradient_of_head_gates", g.head_gates, p.head_gates.extents(), "head_gates");
    detail::check_apart("gradient_of_head_gates", g.head_gates, "head_gates", p.head_gates);
    for (index_t b = 0; b < p.head_gates.extent(0); ++b)
      for (index_t h = 0; h < p.head_gates.extent(1); ++h)
        if (p.head_gates(b, h) == 0)
          fail("gradient_of_head_gates", "expected gates other than 0, whose heads are not computed, got 0 for head ",
               h);
  }
  return g;
}

/// The tensors of a backward call.
template <Element T, class... Tensors>
engine::gradients<T> gradient_tensors(tensor_view<T const, 4> const& output,
                                      tensor_view<accumulation_t<T> const, 3> const& log_sum_exp,
                                      tensor_view<T const, 4> const& of_output, Tensors const&... written) {
  return {output, of_output, log_sum_exp, written..., {}};
}

/// The problem of a backward call.
template <Element T>
engine::problem<T> backward_problem(tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key,
                                    tensor_view<T const, 4> const& value) {
  engine::problem<T> problem(query, key, checked_shape<T>(query, key));
  problem.value = value;
  check_value<T>(value, problem.shape);
  return problem;
}

/// Runs a backward call, whose arguments are checked, with the policies of its plan.
template <class... Options, class Plan, Element T, class Policies>
void run_gradients(Plan& plan, engine::gradients<T> const& g, Policies const& policies) {
  arithmetic_mode const arithmetic;
  constexpr engine::wanted_of_scores wanted{detail::has_kind<option::gradient_of_bias, Options...>,
                                            detail::has_kind<option::gradient_of_logit_scale, Options...>};
  engine::run_backward<wanted>(plan.problem, g, policies, plan.executor);
}

}  // namespace call

namespace options {

/// Writes the gradients of `query`, `key` and `value`, given that of the output. `output` and `log_sum_exp` are those
/// that softmax_attention wrote with the same options; a normalizer other than softmax has no log-sum-exp, and its call
/// leaves the argument empty: tensor_view<float, 3>(). All tensors have one element type but the log-sum-exp, which has
/// the accumulation type. Options: a mask, scores whose derivatives are known, scale, normalizer, sequences, rotary,
/// value_gain, head_gates, dropout or another gain of pairs, full_precision, executor, of_log_sum_exp, and gradients of
/// options (policy/gradient_of.hpp). Results have the same bits for any number of threads.
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
  auto problem = call::backward_problem<T>(raise<4>(view_of(query)), raise<4>(view_of(key)), raise<4>(view_of(value)));
  auto g =
      call::gradient_tensors<T>(raise<4>(view_of(output)), raise<3>(view_of(log_sum_exp)), raise<4>(view_of(of_output)),
                                raise<4>(view_of(of_query)), raise<4>(view_of(of_key)), raise<4>(view_of(of_value)));
  auto plan = call::plan<call::backward_options>(problem, options...);
  auto const policies = plan.policies();
  g.of_options = call::checked_option_gradients(plan.problem, options...);
  call::check_gradients(plan.problem, g, decltype(policies)::normalizer_type::keeps_maximum, options...);
  call::run_gradients<Options...>(plan, g, policies);
}

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
