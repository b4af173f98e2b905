// SPDX-License-Identifier: BSD-3-Clause
// Attention calibration (ACT): sinks behind the first one hand over a part of their weight to all other keys.
//
//   P       = causal softmax weights of a head, over n tokens
//   J       = {j : sum_i P_ij / (n - j) > threshold}, keys counted from 0, without the first of them
//   P'_ij   = beta P_ij                                           for j in J
//           = P_ij + f_i P_ij / sum_(l not in J) P_il             for the others, f_i = (1 - beta) sum_(l in J) P_il
//   o_i     = sum_j P'_ij v_j
//
// n - j queries see key j: so a column's sum over that is its mean. Rows still sum up to 1. The first sink, which is
// the first token mostly, is spared. Heads are chosen beforehand, on other texts; the others stay as they are.
//
// With m_i = sum_(l in J) P_il and the softmax attention o_S and o_R to the sinks J alone and to the rest alone,
//
//   o_i = beta m_i o_S + (1 - beta m_i) o_R,   m_i = exp(lse_S - lse)
//
// which is a merge of two partial attentions: exact however large m_i is. Cost: the products of queries and keys twice
// for the columns' sums, and then softmax attention, whose keys are in either part. Memory: besides tiles, an output of
// the call's size for o_S, a number for each key and three for each row.
//
// Zhongzhi Yu et al.: Unveiling and Harnessing Hidden Attention Sinks: Enhancing Large Language Models without Training
// through Attention Calibration, 2024; its released code has beta 0.4 and a threshold of 0.1, for prompts alone; the
// paper's threshold is about 5 / n.
#pragma once

#include "../../policy/mask/boolean_mask.hpp"
#include "../../policy/mask/causal.hpp"
#include "key_sums.hpp"
#include "merge.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Which keys are sinks, and which part of their weight they keep, from 0 to 1.
struct act_options {
  double threshold = 0.1;
  double beta = 0.4;
};

/// Attends causally, with calibrated weights in the query heads that `heads` lists: indices of query heads, in any
/// order. Query, key, value and output have the shapes of softmax_attention, with as many queries as keys. Options:
/// scale (1/sqrt(key dimension) unless given) and executor. Results have the same bits for any number of threads.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     act_attention(q, k, v, o, ids, {.threshold = 0.1, .beta = 0.4});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void act_attention(Query const& query, Key const& key, Value const& value, Output&& output, index_list heads,
                   act_options const& with, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  call::allows<option::scale, option::executor>::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  auto const problem = call::tensor_problem<T>(q, k, v, o);
  problem_shape const& shape = problem.shape;
  index_t const batches = shape.batches, query_heads = shape.query_heads, tokens = shape.keys;
  detail::check_extent("query", "tokens", shape.queries, tokens, "key");
  if (std::isnan(with.threshold)) fail("act_options", "expected a threshold, got nan");
  if (!(with.beta >= 0 && with.beta <= 1)) fail("act_options", "expected beta from 0 to 1, got ", with.beta);
  for (index_t i = 0; i < heads.size(); ++i)
    if (heads[i] < 0 || heads[i] >= query_heads)
      fail("heads", "expected query heads from 0 to ", query_heads - 1, ", got ", heads[i], " at ", i);

  scratch memory;
  auto const rows = [&] {
    std::array const extents{batches, query_heads, tokens};
    return tensor_view<A, 3>(memory.allocate<A>(batches * query_heads * tokens), extents);
  };
  tensor_view<A, 2> const gates(memory.allocate<A>(query_heads), {1, query_heads});
  std::fill_n(gates.data(), query_heads, A(0));
  for (index_t i = 0; i < heads.size(); ++i) gates(0, heads[i]) = 1;
  tensor_view<A, 3> const lse = rows(), lse_of_rest = rows(), lse_of_sinks = rows(), mass = lse_of_rest;
  // Values and outputs of no elements: the rows' log-sum-exps alone are computed.
  tensor_view<T const, 4> const no_value(nullptr, {batches, shape.key_heads, tokens, 0});
  tensor_view<T, 4> const no_output(nullptr, {batches, query_heads, tokens, 0});
  softmax_attention(q, k, no_value, no_output, causal{}, log_sum_exp(lse), head_gates(gates), options...);
  attention_key_mass(q, k, lse, key_mass(mass), causal{}, head_gates(gates), options...);

  // Whether a key is a sink, and is not, for a head.
  auto const truths = [&] {
    return tensor_view<bool, 4>(memory.allocate<bool>(batches * query_heads * tokens),
                                {batches, query_heads, 1, tokens});
  };
  tensor_view<bool, 4> const is_sink = truths(), is_rest = truths();
  for (index_t b = 0; b < batches; ++b)
    for (index_t h = 0; h < query_heads; ++h) {
      bool is_first = true;
      for (index_t j = 0; j < tokens; ++j) {
        bool sinks = static_cast<double>(mass(b, h, j)) > with.threshold * static_cast<double>(tokens - j);
        if (gates(0, h) == 0) sinks = false;
        if (sinks && is_first) is_first = sinks = false;
        is_sink(b, h, 0, j) = sinks;
        is_rest(b, h, 0, j) = !sinks;
      }
    }

  tensor_view<T, 4> const of_sinks(memory.allocate<T>(batches * query_heads * tokens * shape.value_dimension),
                                   o.extents());
  softmax_attention(q, k, v, of_sinks, causal{} & boolean_mask(is_sink), log_sum_exp(lse_of_sinks), head_gates(gates),
                    options...);
  softmax_attention(q, k, v, o, causal{} & boolean_mask(is_rest), log_sum_exp(lse_of_rest), options...);
  for (index_t b = 0; b < batches; ++b)
    for (index_t h = 0; h < query_heads; ++h)
      for (index_t i = 0; i < tokens; ++i) {
        A& of = lse_of_sinks(b, h, i);
        // Where the rest has no weight at all, there is nobody to hand weight over to.
        bool const alone = lse_of_rest(b, h, i) == -infinity<A>;
        A const kept = of == -infinity<A> ? A(0)
                       : alone            ? A(1)
                                          : std::min(static_cast<A>(with.beta) * std::exp(of - lse(b, h, i)), A(1));
        of = kept == 0 ? -infinity<A> : std::log(kept);
        lse_of_rest(b, h, i) = alone ? -infinity<A> : std::log1p(-kept);
      }
  partial_attention<T> const parts[] = {{o, lse_of_rest}, {of_sinks, lse_of_sinks}};
  merge(parts, o, call::executor_of(options...));
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
