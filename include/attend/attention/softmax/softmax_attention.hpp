// SPDX-License-Identifier: BSD-3-Clause
// Softmax attention, and with other normalizers its relatives: the programmable call.
//
//   s_ij = scale * q_i . k_j, changed by score policies in the order given; -inf where the mask hides j from i
//   p_ij = exp(s_ij) / sum_j exp(s_ij)      (or what the normalizer says)
//   o_i  = sum_j p_ij v_j
//
//   query  [batch, query head, query, key dimension]
//   key    [batch, key head,   key,   key dimension]
//   value  [batch, value head, key,   value dimension]
//   output [batch, query head, query, value dimension]
//
// Leading axes may be left out: three axes are one batch, a matrix is one head. Query heads are a multiple of key heads
// and of value heads, and query head h reads key head h / (query heads / key heads): equal counts are multi-head
// attention, one key head is multi-query, anything between is grouped-query attention.
//
// Work 2 * (key dimension + value dimension) operations for each visible pair; memory for a few tiles per thread,
// whatever the lengths. Few queries read each key once, by the split engine; many share blocks of keys, by the tiled
// one.
//
// Ashish Vaswani et al.: Attention Is All You Need, 2017. Noam Shazeer: Fast Transformer Decoding: One Write-Head is
// All You Need, 2019 (multi-query). Joshua Ainslie et al.: GQA, 2023 (grouped-query). Tri Dao et al.: FlashAttention,
// 2022 (tiles, online softmax). Srinadh Bhojanapalli et al.: Low-Rank Bottleneck in Multi-head Attention Models, 2020
// (a head dimension of its own).
#pragma once

#include "../../call/key_sums.hpp"

namespace attend::inline ATTEND_TARGET {

/// Attends from `query` to `key` and `value`, and writes `output`; the shapes stand at the beginning of this file. All
/// four have one element type (float, double, half or bfloat16) and share no memory with the output. Options, in any
/// order: one mask, any number of scores, and one each of scale (1/sqrt(key dimension) unless given), normalizer
/// (softmax unless given), rotary, slots, sequences, gains, outputs and executor (the calling thread alone unless
/// given).
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     softmax_attention(q, k, v, o, causal{}, scale{0.125}, threads{8});
template <extend::TensorArgument Query, extend::TensorArgument Key, extend::TensorArgument Value,
          extend::TensorArgument Output, class... Options>
void softmax_attention(Query const& query, Key const& key, Value const& value, Output&& output, Options&&... options) {
  auto problem = call::problem_of(query, key, value, output);
  auto plan = call::plan<call::softmax_options_and<option::key_mass>>(problem, options...);
  if constexpr (detail::has_kind<option::key_mass, Options...>)
    call::run_with_key_sums(plan, engine::problem_rows(problem), call::wanted_mass(problem, options...));
  else
    call::run(plan, engine::problem_rows(plan.problem));
}

/// Does the same and returns the output as an Eigen tensor with the axes of `query`. It needs attend.hpp or
/// core/eigen_tensor.hpp.
///
///     auto const result = softmax_attention(q, k, v, causal{});
template <extend::TensorArgument Query, extend::TensorArgument Key, extend::TensorArgument Value, class... Options>
  requires(!(extend::TensorArgument<Options> || ...))
auto softmax_attention(Query const& query, Key const& key, Value const& value, Options&&... options) {
  using T = extend::element_of_t<Query const>;
  constexpr int rank = extend::rank_of<Query const>;
  auto extents = extend::view_of(query).extents();
  extents[rank - 1] = extend::view_of(value).extent(extend::rank_of<Value const> - 1);
  auto output = detail::owned_tensor<T, rank>::with_extents(extents);
  softmax_attention(query, key, value, output, std::forward<Options>(options)...);
  return output;
}

namespace detail {

/// What a call without values gives: weights, logits, or statistics of rows.
template <TensorArgument Query, TensorArgument Key, class... Options>
void run_without_values(Query const& query, Key const& key, Options&... options) {
  arithmetic_mode const arithmetic;
  using T = typename call::one_element_type<element_of_t<Query const>, Key>::type;
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key));
  engine::problem<T> problem(q, k, call::checked_shape<T>(q, k));
  auto plan = call::plan(problem, options...);
  engine::run_tiled(problem, engine::problem_rows(problem), plan.policies(), plan.executor);
}

}  // namespace detail

namespace options {

/// Writes the weights p_ij alone, [batch, query head, query, key], from queries and keys. They hold the accumulation
/// type: float, or double for tensors of double. Options and errors are those of softmax_attention.
///
///     attention_weights(q, k, pairs, causal{});
template <TensorArgument Query, TensorArgument Key, TensorArgument Weights, class... Options>
void attention_weights(Query const& query, Key const& key, Weights&& pairs, Options&&... options) {
  auto const written = weights(pairs);
  detail::run_without_values(query, key, options..., written);
}

/// Writes the logits s_ij alone, of the same shape and type: scale * q . k, changed by the scores that are given, and
/// -inf where the mask that is given hides the key. A call without mask and scores writes the logits before these.
///
///     attention_logits(q, k, pairs, softcap{30.});
template <TensorArgument Query, TensorArgument Key, TensorArgument Logits, class... Options>
void attention_logits(Query const& query, Key const& key, Logits&& pairs, Options&&... options) {
  auto const written = logits(pairs);
  detail::run_without_values(query, key, options..., written);
}

/// Writes statistics of the rows of weights alone (policy/row_statistics.hpp), from queries and keys: half the work of
/// attention. One option at least is range_mass, heaviest_keys, entropy or block_maxima; options and errors are those
/// of softmax_attention.
///
///     attention_statistics(q, k, entropy(lse), causal{});
template <TensorArgument Query, TensorArgument Key, class... Options>
void attention_statistics(Query const& query, Key const& key, Options&&... options) {
  static_assert(
      (detail::has_kind<option::range_mass, Options...> || detail::has_kind<option::heaviest_keys, Options...> ||
       detail::has_kind<option::entropy, Options...> || detail::has_kind<option::block_maxima, Options...>),
      "attend: attention_statistics takes range_mass, heaviest_keys, entropy or block_maxima");
  detail::run_without_values(query, key, options...);
}

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
