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

#include "../../core/check.hpp"
#include "../../engine/softmax/split.hpp"
#include "../../engine/softmax/tiled.hpp"
#include "../../engine/softmax/two_passes.hpp"
#include "../../policy/gain.hpp"
#include "../../policy/invariance.hpp"
#include "../../policy/score/scale.hpp"
#include "../../policy/slots.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

template <class... Options>
constexpr void check_options() {
  static_assert((is_option<Options, option::mask, option::score, option::scale, option::normalizer, option::position,
                           option::slots, option::sequences, option::value_gain, option::pair_gain, option::head_gates,
                           option::log_sum_exp, option::weights, option::logits, option::tile_counts,
                           option::invariance, option::executor> &&
                 ...),
                "attend: unknown option");
  static_assert(count_of_kind<option::mask, Options...> <= 1, "attend: mask given twice: combine masks with & | !");
  static_assert(count_of_kind<option::normalizer, Options...> <= 1, "attend: normalizer given twice");
  static_assert(count_of_kind<option::position, Options...> <= 1, "attend: rotary given twice");
  static_assert(count_of_kind<option::slots, Options...> <= 1, "attend: extra key-value slots given twice");
  static_assert(count_of_kind<option::sequences, Options...> <= 1, "attend: sequences given twice (padded, ragged)");
  static_assert(count_of_kind<option::value_gain, Options...> <= 1, "attend: value_gain given twice");
  static_assert(count_of_kind<option::pair_gain, Options...> <= 1,
                "attend: gain of pairs, or weight_function, given twice");
  static_assert(count_of_kind<option::head_gates, Options...> <= 1, "attend: head_gates given twice");
  static_assert(count_of_kind<option::log_sum_exp, Options...> <= 1, "attend: log_sum_exp given twice");
  static_assert(count_of_kind<option::weights, Options...> <= 1, "attend: weights given twice");
  static_assert(count_of_kind<option::logits, Options...> <= 1, "attend: logits given twice");
  static_assert(count_of_kind<option::tile_counts, Options...> <= 1, "attend: count_tiles given twice");
  static_assert(count_of_kind<option::invariance, Options...> <= 1, "attend: chunk_invariant given twice");
  static_assert(count_of_kind<option::executor, Options...> <= 1, "attend: executor given twice");
}

template <Element T>
problem_shape check_inputs(tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key) {
  check_view("query", query);
  check_view("key", key);
  check_extent("key", "batch", key.extent(0), query.extent(0), "query");
  check_extent("key", "head dimension", key.extent(3), query.extent(3), "query");
  if (key.extent(1) == 0 ? query.extent(1) != 0 : query.extent(1) % key.extent(1) != 0)
    fail("key", "expected a head count that divides ", query.extent(1), " (query), got ", key.extent(1));
  if (query.extent(2) >= token_limit)
    fail("query", "expected fewer than ", token_limit, " tokens, got ", query.extent(2));
  if (key.extent(2) >= token_limit) fail("key", "expected fewer than ", token_limit, " tokens, got ", key.extent(2));
  return {query.extent(0), query.extent(1), key.extent(1),   key.extent(1),
          query.extent(2), key.extent(2),   query.extent(3), 0,
          query.extent(0)};
}

template <Element T>
void check_values(tensor_view<T const, 4> const& value, tensor_view<T, 4> const& output, problem_shape& shape) {
  check_view("value", value);
  check_extent("value", "batch", value.extent(0), shape.batches, "query");
  check_extent("value", "tokens", value.extent(2), shape.keys, "key");
  if (value.extent(1) == 0 ? shape.query_heads != 0 : shape.query_heads % value.extent(1) != 0)
    fail("value", "expected a head count that divides ", shape.query_heads, " (query), got ", value.extent(1));
  shape.value_heads = value.extent(1);
  shape.value_dimension = value.extent(3);
  check_output_view("output", output);
  check_extent("output", "batch", output.extent(0), shape.batches, "query");
  check_extent("output", "heads", output.extent(1), shape.query_heads, "query");
  check_extent("output", "tokens", output.extent(2), shape.queries, "query");
  check_extent("output", "head dimension", output.extent(3), shape.value_dimension, "value");
}

/// The problem of four tensors, checked but for what options say.
template <Element T>
engine::problem<T> tensor_problem(tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key,
                                  tensor_view<T const, 4> const& value, tensor_view<T, 4> const& output) {
  engine::problem<T> problem(query, key, check_inputs<T>(query, key));
  problem.value = value;
  problem.output = output;
  problem.has_values = true;
  check_values<T>(value, output, problem.shape);
  return problem;
}

/// Checks that what is written is apart from what is read, and from each other.
template <Element T>
void check_memory(engine::problem<T> const& p) {
  auto const log_sum_exp = raise<4>(p.log_sum_exp);
  named_layout const written[] = {
      {"output", p.output}, {"log_sum_exp", log_sum_exp}, {"weights", p.weights}, {"logits", p.logits}};
  named_layout const read[] = {{"query", p.query},
                               {"key", p.key},
                               {"value", p.value},
                               {"slots (keys)", p.slot_key},
                               {"slots (values)", p.slot_value}};
  check_apart(written, read);
}

/// A tensor with an element for each pair, that the call writes.
template <Element T, class A>
tensor_view<A, 4> checked_pairs(engine::problem<T> const& p, char const* argument, tensor_view<A, 4> const& pairs) {
  static_assert(std::same_as<A, accumulation_t<T>>,
                "attend: weights and logits hold the accumulation type: float, or double for tensors of double");
  check_output_view(argument, pairs);
  check_extent(argument, "batch", pairs.extent(0), p.shape.batches, "query");
  check_extent(argument, "heads", pairs.extent(1), p.shape.query_heads, "query");
  check_extent(argument, "queries", pairs.extent(2), p.shape.queries, "query");
  check_extent(argument, "keys", pairs.extent(3), p.shape.keys, "key");
  if (p.sequences.packed()) fail(argument, "expected sequences that are not packed, got ragged");
  return pairs;
}

/// Reads the options into the problem, checks them, and calls run(problem, steering, executor).
template <Element T, class Run, class... Options>
void run_attention(engine::problem<T>& p, Run const& run, Options&... options) {
  arithmetic_mode const arithmetic;
  using A = accumulation_t<T>;
  absent none;
  full everything;
  softmax usual;
  serial alone;

  p.scale = scale_or<A>(usual_scale(p.shape.key_dimension), options...);
  auto& mask = find_option<option::mask>(everything, options...);
  auto& normalizer = find_option<option::normalizer>(usual, options...);
  auto& position = find_option<option::position>(none, options...);
  auto& executor = find_option<option::executor>(alone, options...);
  auto const scores = find_options<option::score>(options...);
  using normalizer_type = std::remove_cvref_t<decltype(normalizer)>;
  using position_type = std::remove_cvref_t<decltype(position)>;
  p.sequences = sequence_list(p.shape, find_option<option::sequences>(none, options...));
  p.shape.sequences = p.sequences.size();
  mask.check(p.shape);
  normalizer.check(p.shape);
  std::apply([&](auto const&... score) { (score.check(p.shape), ...); }, scores);
  if constexpr (!std::same_as<position_type, absent>) position.check(p.shape, p.sequences.query_positions());
  check_executor(executor);
  p.chunk_invariant = has_kind<option::invariance, Options...>;

  if constexpr (has_kind<option::slots, Options...>) {
    auto& slots = find_option<option::slots>(none, options...);
    static_assert(std::same_as<typename decltype(slots.key)::value_type, T>,
                  "attend: extra key-value slots must have the element type of key and value");
    slots.check(p.shape);
    p.slot_key = slots.key;
    if constexpr (requires { slots.value; }) {
      p.slot_value = slots.value;
      p.slots_have_values = p.has_values;
    }
  }
  if constexpr (has_kind<option::value_gain, Options...>) {
    auto& gain = find_option<option::value_gain>(none, options...);
    static_assert(std::same_as<typename decltype(gain.gains)::value_type, A>,
                  "attend: value_gain holds the accumulation type: float, or double for tensors of double");
    gain.check(p.shape);
    p.value_gain = gain.gains;
  }
  if constexpr (has_kind<option::head_gates, Options...>) {
    auto& gates = find_option<option::head_gates>(none, options...);
    static_assert(std::same_as<typename decltype(gates.gates)::value_type, A>,
                  "attend: head_gates holds the accumulation type: float, or double for tensors of double");
    gates.check(p.shape);
    p.head_gates = gates.gates;
  }
  if constexpr (has_kind<option::log_sum_exp, Options...>) {
    static_assert(normalizer_type::keeps_maximum, "attend: log_sum_exp is known for softmax only");
    auto& rows = find_option<option::log_sum_exp>(none, options...).rows;
    static_assert(std::same_as<std::remove_cvref_t<decltype(rows)>, tensor_view<A, 3>>,
                  "attend: log_sum_exp holds the accumulation type: float, or double for tensors of double");
    p.log_sum_exp = rows;
    check_output_view("log_sum_exp", p.log_sum_exp);
    check_extent("log_sum_exp", "batch", p.log_sum_exp.extent(0), p.shape.batches, "query");
    check_extent("log_sum_exp", "heads", p.log_sum_exp.extent(1), p.shape.query_heads, "query");
    check_extent("log_sum_exp", "tokens", p.log_sum_exp.extent(2), p.shape.queries, "query");
  }
  if constexpr (has_kind<option::weights, Options...>)
    p.weights = checked_pairs(p, "weights", find_option<option::weights>(none, options...).pairs);
  if constexpr (has_kind<option::logits, Options...>)
    p.logits = checked_pairs(p, "logits", find_option<option::logits>(none, options...).pairs);
  if constexpr (has_kind<option::tile_counts, Options...>)
    p.counts = find_option<option::tile_counts>(none, options...).counts;

  check_memory(p);
  auto& pair_gain = find_option<option::pair_gain>(none, options...);
  if constexpr (has_kind<option::pair_gain, Options...>) pair_gain.check(p.shape);
  using policies = engine::policies<std::remove_cvref_t<decltype(mask)>, std::remove_const_t<decltype(scores)>,
                                    normalizer_type, position_type, std::remove_cvref_t<decltype(pair_gain)>, in_order,
                                    has_kind<option::slots, Options...>>;
  run(p, policies{mask, scores, normalizer, position, pair_gain}, executor);
}

template <class Option>
inline constexpr bool keeps_maximum = true;
template <class Option>
  requires requires { std::remove_cvref_t<Option>::keeps_maximum; }
inline constexpr bool keeps_maximum<Option> = std::remove_cvref_t<Option>::keeps_maximum;

/// Options that the split engine knows.
template <class... Options>
inline constexpr bool can_split =
    (is_option<Options, option::mask, option::score, option::scale, option::normalizer, option::position,
               option::sequences, option::head_gates, option::log_sum_exp, option::weights, option::logits,
               option::tile_counts, option::executor> &&
     ...) &&
    (keeps_maximum<Options> && ...) && !(rotates_keys<std::remove_cvref_t<Options>> || ...);

/// Each sequence by the engine that suits its number of queries.
template <class... Options, Element T, KeyValueSource Source, class Steering, class E>
void run_suitably(engine::problem<T> const& problem, Source const& source, Steering const& policies, E& executor) {
  if constexpr (requires { requires Steering::pair_gain_type::of_weights; })
    return engine::run_in_two_passes(problem, source, policies, executor);
  if constexpr (can_split<Options...> && !HasRuns<typename Steering::mask_type>) {
    index_t const sequences = problem.sequences.size();
    scratch memory;
    bool* const splits = memory.allocate<bool>(sequences);
    index_t split = 0;
    for (index_t s = 0; s < sequences; ++s)
      split += splits[s] = engine::suits_split(problem, source, problem.sequences[s]);
    if (split == sequences) return engine::run_split(problem, source, policies, executor);
    if (split > 0) {
      auto some = problem;
      some.chosen = {splits, true};
      engine::run_split(some, source, policies, executor);
      some.chosen.wanted = false;
      return engine::run_tiled(some, source, policies, executor);
    }
  }
  engine::run_tiled(problem, source, policies, executor);
}

}  // namespace detail

/// Attention of `query` to `key` and `value`, into `output`. All four have one element type (float, double, half,
/// bfloat16) and share no memory with the output. Options, in any order: one mask, any number of scores, one each of
/// scale, normalizer, rotary, slots, sequences, gains, outputs and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void softmax_attention(Query const& query, Key const& key, Value const& value, Output&& output, Options&&... options) {
  using T = element_of_t<Output>;
  static_assert(Element<T>, "attend: elements are float, double, Eigen::half or Eigen::bfloat16");
  static_assert(std::same_as<element_of_t<Query const>, T> && std::same_as<element_of_t<Key const>, T> &&
                    std::same_as<element_of_t<Value const>, T>,
                "attend: query, key, value and output must have one element type");
  detail::check_options<Options...>();
  auto problem = detail::tensor_problem<T>(extend::raise<4>(view_of(query)), extend::raise<4>(view_of(key)),
                                           extend::raise<4>(view_of(value)), extend::raise<4>(view_of(output)));
  detail::run_attention(
      problem,
      [](auto const& p, auto const& policies, auto& executor) {
        detail::run_suitably<Options...>(p, engine::problem_rows(p), policies, executor);
      },
      options...);
}

/// The same, returned as an Eigen tensor with the axes of `query`. Needs attend.hpp or core/eigen_tensor.hpp.
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, class... Options>
  requires(!(TensorArgument<Options> || ...))
auto softmax_attention(Query const& query, Key const& key, Value const& value, Options&&... options) {
  using T = element_of_t<Query const>;
  constexpr int rank = rank_of<Query const>;
  auto extents = view_of(query).extents();
  extents[rank - 1] = view_of(value).extent(rank_of<Value const> - 1);
  auto output = detail::owned_tensor<T, rank>::with_extents(extents);
  softmax_attention(query, key, value, output, std::forward<Options>(options)...);
  return output;
}

namespace detail {

/// What a call without values gives: the weights or the logits.
template <class Written, TensorArgument Query, TensorArgument Key, class... Options>
void run_without_values(Query const& query, Key const& key, Written const& written, Options&... options) {
  using T = element_of_t<Query const>;
  static_assert(Element<T>, "attend: elements are float, double, Eigen::half or Eigen::bfloat16");
  static_assert(std::same_as<element_of_t<Key const>, T>, "attend: query and key must have one element type");
  check_options<Options..., Written>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key));
  engine::problem<T> problem(q, k, check_inputs<T>(q, k));
  run_attention(
      problem,
      [](auto const& p, auto const& policies, auto& executor) {
        engine::run_tiled(p, engine::problem_rows(p), policies, executor);
      },
      options..., written);
}

}  // namespace detail

/// The weights alone, [batch, query head, query, key], without values. They hold the accumulation type: float, or
/// double for tensors of double.
template <TensorArgument Query, TensorArgument Key, TensorArgument Weights, class... Options>
void attention_weights(Query const& query, Key const& key, Weights&& pairs, Options&&... options) {
  detail::run_without_values(query, key, weights(pairs), options...);
}

/// The logits alone, of the same shape and type: scale * q.k, changed by the scores given, -inf where the mask given
/// hides. What is to be seen before a mask or a score is what the call without it gives.
template <TensorArgument Query, TensorArgument Key, TensorArgument Logits, class... Options>
void attention_logits(Query const& query, Key const& key, Logits&& pairs, Options&&... options) {
  detail::run_without_values(query, key, logits(pairs), options...);
}

}  // namespace attend::inline ATTEND_TARGET
