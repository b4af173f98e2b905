// SPDX-License-Identifier: BSD-3-Clause
// What attention gives to each key, by the rows' log-sum-exps, where the call itself has run before: the weights that a
// key was given, and rows of the queries' side that its weights carry to it.
//
//   p_ij   = exp(s_ij - lse_i)                        s_ij as softmax_attention has it
//   mass_j = sum_i p_ij                               attention_key_mass; over chosen queries (policy/key_mass.hpp)
//   o_j    = sum_i p_ij x_i                           transposed_attention: P^T X
//
//   query  [batch, query head, query, key dimension]  lse    [batch, query head, query]
//   key    [batch, key head,   key,   key dimension]  mass_j [batch, head, key]
//   x      [batch, query head, query, column]         o      [batch, head, key, column]
//
// The number of heads of a result says which query heads are added up: as many as queries have, none; as keys have,
// those that share a key head; 1, all. Rows of P sum to 1, columns do not: attention gathers for each query, and its
// transpose sends from each query.
//
// Work 2 * key dimension operations for each visible pair, and 2 * columns for rows x; memory for a few tiles per
// thread. A call that also wants the output asks softmax_attention for key_mass.
//
// Tri Dao et al.: FlashAttention, 2022 (its backward pass computes dV = P^T dO so).
#pragma once

#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace call {

using key_sum_options =
    allows<option::mask, option::score, option::scale, option::normalizer, option::position, option::slots,
           option::sequences, option::head_gates, option::key_mass, option::executor>;

/// The option, but of extra key-value slots their keys alone.
template <class Option>
decltype(auto) without_slot_values(Option& option) {
  if constexpr (detail::has_kind<option::slots, Option>)
    return options::key_bias(option.key);
  else
    return (option);
}

/// Adds up for the keys of a planned call without values what is wanted, with the rows' log-sum-exps where they are
/// known. `written` are the results' layouts.
template <class Plan, Element T, class LogSumExp>
void add_up_for_keys(Plan& plan, engine::key_sums<T> wanted, LogSumExp const& log_sum_exp,
                     std::span<detail::named_layout const> written) {
  using namespace detail;
  using A = accumulation_t<T>;
  static_assert(std::same_as<std::remove_const_t<element_of_t<LogSumExp const>>, A>,
                "attend: log_sum_exp holds the accumulation type: float, or double for tensors of double");
  auto& p = plan.problem;
  auto const policies = plan.policies();
  using normalizer = typename decltype(policies)::normalizer_type;
  wanted.log_sum_exp = raise<3>(view_of(log_sum_exp));
  if (normalizer::keeps_maximum && wanted.log_sum_exp.data()) {
    check_view("log_sum_exp", wanted.log_sum_exp);
    check_extent("log_sum_exp", "batch", wanted.log_sum_exp.extent(0), p.shape.batches, "query");
    check_extent("log_sum_exp", "heads", wanted.log_sum_exp.extent(1), p.shape.query_heads, "query");
    check_extent("log_sum_exp", "tokens", wanted.log_sum_exp.extent(2), p.shape.queries, "query");
    auto const rows = raise<4>(wanted.log_sum_exp);
    named_layout const read[] = {{"log_sum_exp", rows}};
    check_apart(written, read);
  } else if (normalizer::keeps_maximum || engine::has_row_factors<normalizer>) {
    return run_with_key_sums(plan, engine::problem_rows(p), wanted);
  }
  arithmetic_mode const arithmetic;
  engine::run_key_sums(p, engine::problem_rows(p), wanted, policies, plan.executor);
}

}  // namespace call

namespace options {

/// Writes the weights that keys are given, added up over queries, as the option key_mass says, without an output.
/// `log_sum_exp` is what softmax_attention wrote with the same options; an empty one, tensor_view<float, 3>(), has it
/// computed first, in a further product of queries and keys. Options: a mask, scores, scale, normalizer, rotary, slots,
/// sequences, head_gates and an executor. Results have the same bits for any number of threads.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     softmax_attention(q, k, v, o, causal{}, log_sum_exp(lse));
///     attention_key_mass(q, k, lse, key_mass(tokens, last_queries{64}), causal{});
template <TensorArgument Query, TensorArgument Key, TensorArgument LogSumExp, class A, class... Options>
void attention_key_mass(Query const& query, Key const& key, LogSumExp const& log_sum_exp, key_mass<A> const& mass,
                        Options&&... options) {
  using T = typename call::one_element_type<std::remove_const_t<element_of_t<Query const>>, Key>::type;
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key));
  engine::problem<T> problem(q, k, call::checked_shape<T>(q, k));
  auto plan = call::plan<call::key_sum_options>(problem, call::without_slot_values(options)..., mass);
  auto const sums = raise<4>(problem.key_mass);
  detail::named_layout const written[] = {{"key_mass", sums}};
  call::add_up_for_keys(plan, call::wanted_mass(problem, mass), log_sum_exp, written);
}

}  // namespace options

namespace detail {

/// Writes sum_i p_ij gain_i x_i, with or without gains.
template <class Query, class Key, class LogSumExp, class Rows, class Gain, class Output, class... Options>
void send_rows(Query const& query, Key const& key, LogSumExp const& log_sum_exp, Rows const& x, Gain const& gain,
               Output&& output, Options&... options) {
  using T = typename call::one_element_type<std::remove_const_t<element_of_t<Query const>>, Key, Rows>::type;
  using A = accumulation_t<T>;
  static_assert(
      std::same_as<element_of_t<Output>, A>,
      "attend: what is added up for keys holds the accumulation type: float, or double for tensors of double");
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), rows = raise<4>(view_of(x));
  engine::problem<T> problem(q, k, call::checked_shape<T>(q, k));
  auto plan = call::plan<call::key_sum_options>(problem, call::without_slot_values(options)...);
  problem_shape const& shape = problem.shape;
  engine::key_sums<T> wanted;
  if constexpr (has_kind<option::key_mass, Options...>) wanted = call::wanted_mass(problem, options...);
  wanted.rows = rows;
  wanted.sums = raise<4>(view_of(output));
  check_view("x", rows);
  check_extent("x", "batch", rows.extent(0), shape.batches, "query");
  check_extent("x", "heads", rows.extent(1), shape.query_heads, "query");
  check_extent("x", "tokens", rows.extent(2), shape.queries, "query");
  check_output_view("output", wanted.sums);
  check_extent("output", "batch", wanted.sums.extent(0), shape.batches, "query");
  call::check_summed_heads("output", wanted.sums.extent(1), shape);
  check_extent("output", "tokens", wanted.sums.extent(2), shape.keys, "key");
  check_extent("output", "columns", wanted.sums.extent(3), rows.extent(3), "x");
  if constexpr (!std::same_as<Gain, absent>) {
    wanted.gain = raise<3>(view_of(gain));
    check_view("gates", wanted.gain);
    check_extent("gates", "batch", wanted.gain.extent(0), shape.batches, "query");
    check_extent("gates", "heads", wanted.gain.extent(1), shape.query_heads, "query");
    check_extent("gates", "tokens", wanted.gain.extent(2), shape.queries, "query");
  }
  auto const mass = raise<4>(problem.key_mass);
  auto const gains = raise<4>(wanted.gain);
  named_layout const written[] = {{"output", wanted.sums}, {"key_mass", mass}};
  named_layout const read[] = {{"query", q}, {"key", k}, {"x", rows}, {"gates", gains}};
  check_apart(written, read);
  call::add_up_for_keys(plan, wanted, log_sum_exp, written);
}

}  // namespace detail

namespace options {

/// Writes the transposed weights times rows `x` of the queries' side: o_j = sum_i p_ij x_i, [batch, head, key, column],
/// in the accumulation type. `x` has the element type of queries and keys, and is [batch, query head, query, column].
/// Log-sum-exp, options and bits are those of attention_key_mass; with its option key_mass, the masses come from the
/// same pass.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     softmax_attention(q, k, v, o, log_sum_exp(lse));
///     transposed_attention(q, k, lse, q, k2);
template <TensorArgument Query, TensorArgument Key, TensorArgument LogSumExp, TensorArgument Rows,
          TensorArgument Output, class... Options>
void transposed_attention(Query const& query, Key const& key, LogSumExp const& log_sum_exp, Rows const& x,
                          Output&& output, Options&&... options) {
  detail::send_rows(query, key, log_sum_exp, x, detail::absent{}, output, options...);
}

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
