// SPDX-License-Identifier: BSD-3-Clause
// Decoding with a prefix that all sequences share (a system prompt, a document, the beginning of a beam).
//
//   output_s = softmax over [prefix, suffix_s] of the queries of sequence s
//
//   query        [sequence, query head, query, key dimension]   the tokens that were appended last
//   prefix_key   [key-value head, token, key dimension]         before every sequence's own tokens
//   prefix_value [key-value head, token, value dimension]
//   suffix       a cache with the own tokens of each sequence (cache/)
//   output       [sequence, query head, query, value dimension]
//
// The prefix is attended to once, by the queries of all sequences together, which is a matrix product (the tiled
// engine); the suffixes one by one, each read once (the split engine); the two are merged by log-sum-exp. So the prefix
// is read once for the batch, not once for each sequence. Partial outputs are rounded to the element type before they
// are merged.
//
// Jordan Juravsky et al.: Hydragen: High-Throughput LLM Inference with Shared Prefixes, 2024; Zihao Ye et al.: Cascade
// Inference: Memory Bandwidth Efficient Shared Prefix Batch Decoding, 2024.
#pragma once

#include "../../policy/mask/causal.hpp"
#include "../../policy/score/softcap.hpp"
#include "../softmax/merge.hpp"
#include "../softmax/softmax_attention.hpp"
#include "decode_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Options that mean the same wherever a query stands.
template <class Option>
inline constexpr bool fits_shared_prefix =
    std::same_as<std::remove_cvref_t<Option>, causal> || std::same_as<std::remove_cvref_t<Option>, softcap> ||
    call::allows<option::scale, option::log_sum_exp, option::executor>::all<Option>;

/// The queries of all sequences, one after the other, as [1, head, sequence * query, dimension]: in place where the
/// strides allow it, else copied.
template <Element T>
tensor_view<T const, 4> queries_of_all(tensor_view<T const, 4> const& query, scratch& memory) {
  index_t const sequences = query.extent(0), heads = query.extent(1), queries = query.extent(2),
                dimension = query.extent(3);
  if (queries == 1) return {query.data(), {1, heads, sequences, dimension}, {0, query.stride(1), query.stride(0), 1}};
  tensor_view<T, 4> const all(memory.allocate<T>(sequences * heads * queries * dimension),
                              {1, heads, sequences * queries, dimension});
  if (!all.empty())
    for (index_t s = 0; s < sequences; ++s)
      for (index_t head = 0; head < heads; ++head)
        for (index_t i = 0; i < queries; ++i)
          std::copy_n(&query(s, head, i, 0), dimension, &all(0, head, s * queries + i, 0));
  return all;
}

/// The log-sum-exp that is wanted of prefix and suffix together.
template <Element T>
void check_rows_of_all(tensor_view<accumulation_t<T>, 3> const& rows, tensor_view<T const, 4> const& query,
                       tensor_view<T const, 4> const& key, tensor_view<T const, 4> const& value,
                       tensor_view<T, 4> const& output) {
  check_output_view("log_sum_exp", rows);
  check_extent("log_sum_exp", "batch", rows.extent(0), query.extent(0), "query");
  check_extent("log_sum_exp", "heads", rows.extent(1), query.extent(1), "query");
  check_extent("log_sum_exp", "tokens", rows.extent(2), query.extent(2), "query");
  auto const written = raise<4>(rows);
  check_apart("log_sum_exp", written, "query", query);
  check_apart("log_sum_exp", written, "prefix_key", key);
  check_apart("log_sum_exp", written, "prefix_value", value);
  check_apart("log_sum_exp", written, "output", output);
}

}  // namespace detail

namespace caches {

/// Attends from the last tokens of all sequences to the shared prefix and to their own suffixes; shapes stand at the
/// beginning of this file. Options: causal (among the suffix's last tokens), softcap, scale (1/sqrt(key dimension)
/// unless given), log_sum_exp and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     shared_prefix_attention(q, prefix_key, prefix_value, cache, o, causal{});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, KeyValueSource Suffix, TensorArgument Output,
          class... Options>
void shared_prefix_attention(Query const& query, Key const& prefix_key, Value const& prefix_value, Suffix const& suffix,
                             Output&& output, Options&&... options) {
  extend::arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  static_assert(Element<T>, "attend: elements are float, double, Eigen::half or Eigen::bfloat16");
  static_assert(std::same_as<element_of_t<Query const>, T> && std::same_as<element_of_t<Key const>, T> &&
                    std::same_as<element_of_t<Value const>, T>,
                "attend: query, prefix and output must have one element type");
  static_assert((detail::fits_shared_prefix<Options> && ...),
                "attend: shared_prefix_attention takes causal, softcap, scale, log_sum_exp and an executor");
  tensor_view<T const, 4> const q = extend::raise<4>(view_of(query)), k = extend::raise<4>(view_of(prefix_key)),
                                v = extend::raise<4>(view_of(prefix_value));
  tensor_view<T, 4> const o = extend::raise<4>(view_of(output));
  call::cache_problem<T>(q, suffix, o);
  auto const check_prefix = [&](char const* argument, tensor_view<T const, 4> const& prefix, index_t suffix_heads,
                                index_t dimension) {
    detail::check_view(argument, prefix);
    detail::check_extent(argument, "batch", prefix.extent(0), 1, "all sequences share it");
    detail::check_extent(argument, "heads", prefix.extent(1), suffix_heads, "the suffix");
    detail::check_extent(argument, "head dimension", prefix.extent(3), dimension, "the suffix");
    detail::check_apart("output", o, argument, prefix);
  };
  check_prefix("prefix_key", k, detail::key_heads_of(suffix), suffix.key_dimension());
  check_prefix("prefix_value", v, detail::value_heads_of(suffix), suffix.value_dimension());
  detail::check_extent("prefix_value", "tokens", v.extent(2), k.extent(2), "prefix_key");
  std::apply([&](auto const&... wanted) { (detail::check_rows_of_all(wanted.rows, q, k, v, o), ...); },
             detail::find_options<option::log_sum_exp>(options...));

  index_t const sequences = o.extent(0), heads = o.extent(1), queries = o.extent(2), dimension = o.extent(3);
  extend::scratch memory;
  tensor_view<T, 4> const prefix_output(memory.allocate<T>(sequences * heads * queries * dimension),
                                        {1, heads, sequences * queries, dimension});
  tensor_view<A, 3> const prefix_rows(memory.allocate<A>(sequences * heads * queries), {1, heads, sequences * queries});
  tensor_view<A, 3> const suffix_rows(memory.allocate<A>(sequences * heads * queries), {sequences, heads, queries});

  full everything;
  auto& executor = call::executor_of(options...);
  auto& mask = detail::find_option<option::mask>(everything, options...);
  auto const logits =
      std::tuple_cat(detail::find_options<option::scale>(options...), detail::find_options<option::score>(options...));
  std::apply(
      [&](auto const&... change) {
        // The rows of all sequences share tiles: none of them may notice.
        softmax_attention(detail::queries_of_all(q, memory), k, v, prefix_output, log_sum_exp(prefix_rows), executor,
                          chunk_invariant{}, change...);
        decode_attention(q, suffix, o, log_sum_exp(suffix_rows), executor, mask, change...);
      },
      logits);
  index_t const rows = sequences * queries;
  partial_attention<T> const parts[] = {
      {tensor_view<T const, 4>(prefix_output.data(), {sequences, heads, queries, dimension},
                               {queries * dimension, rows * dimension, dimension, 1}),
       tensor_view<A const, 3>(prefix_rows.data(), {sequences, heads, queries}, {queries, rows, 1})},
      {tensor_view<T const, 4>(o), tensor_view<A const, 3>(suffix_rows)}};
  std::apply([&](auto const&... rows_of_all) { merge(parts, o, executor, rows_of_all...); },
             detail::find_options<option::log_sum_exp>(options...));
}

}  // namespace caches

}  // namespace attend::inline ATTEND_TARGET
