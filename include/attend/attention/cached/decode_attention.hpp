// SPDX-License-Identifier: BSD-3-Clause
// Decoding: the last tokens of each sequence attend to all of its keys and values so far, which are read once.
//
//   query  [sequence, query head, query, key dimension]      1 to 16 queries, say
//   cache  keys and values of each sequence, each with a length of its own (cache/)
//   output [sequence, query head, query, value dimension]
//
// The queries are those of the tokens that were appended last: query i of m, in a sequence of n tokens, stands at
// n - m + i. With several queries, say causal{}: a token must not see the ones after it. What a cache has dropped is
// seen by nobody.
//
// Cost: the bytes of keys and values that are seen, read once for all the query heads that share them. More queries
// give the same result, but are work for softmax_attention, whose time goes with the arithmetic.
//
// Noam Shazeer: Fast Transformer Decoding: One Write-Head is All You Need, 2019 (why reading is what it costs). Tri
// Dao, Daniel Haziza, Francisco Massa, Grigory Sizov: Flash-Decoding, 2023 (keys split).
#pragma once

#include "../../cache/contiguous.hpp"
#include "../softmax/softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Checks the options of a call whose keys are split.
template <class... Options>
constexpr void check_decode_options() {
  check_options<Options...>();
  static_assert((keeps_maximum<Options> && ...), "attend: decode_attention normalizes by softmax");
  static_assert(!has_kind<option::invariance, Options...>,
                "attend: decode_attention splits keys: softmax_attention and cached_attention take chunk_invariant");
  static_assert(can_split<Options...>,
                "attend: decode_attention takes no slots or value gains, and of rotary positions rotary_queries");
}

/// A problem whose keys and values are in a store, or will be: each sequence has `coming` more tokens then.
template <Element T, KeyValueSource Source>
engine::problem<T> cache_problem(tensor_view<T const, 4> const& query, Source const& cache,
                                 tensor_view<T, 4> const& output, index_t coming = 0) {
  static_assert(std::same_as<accumulation_t<T>, storage_accumulation_t<typename Source::key_element>> &&
                    std::same_as<accumulation_t<T>, storage_accumulation_t<typename Source::value_element>>,
                "attend: queries, keys and values must have one accumulation type");
  check_view("query", query);
  index_t const heads = cache.key_value_heads();
  check_extent("query", "sequences", query.extent(0), cache.sequences(), "the cache");
  check_extent("query", "head dimension", query.extent(3), cache.key_dimension(), "the cache");
  if (heads == 0 ? query.extent(1) != 0 : query.extent(1) % heads != 0)
    fail("query", "expected a multiple of ", heads, " heads (the cache), got ", query.extent(1));
  if (query.extent(2) >= token_limit)
    fail("query", "expected fewer than ", token_limit, " tokens, got ", query.extent(2));
  index_t longest = 0;
  for (index_t s = 0; s < cache.sequences(); ++s) longest = std::max<index_t>(longest, cache.size(s) + coming);
  if (longest >= token_limit) fail("cache", "expected fewer than ", token_limit, " tokens, got ", longest);
  check_output_view("output", output);
  check_extent("output", "batch", output.extent(0), query.extent(0), "query");
  check_extent("output", "heads", output.extent(1), query.extent(1), "query");
  check_extent("output", "tokens", output.extent(2), query.extent(2), "query");
  check_extent("output", "head dimension", output.extent(3), cache.value_dimension(), "the cache");
  check_readable(cache);
  if constexpr (requires { cache.check_apart("output", output); }) cache.check_apart("output", output);
  engine::problem<T> problem(query, {},
                             {query.extent(0), query.extent(1), heads, heads, query.extent(2), longest, query.extent(3),
                              output.extent(3), query.extent(0)});
  problem.output = output;
  problem.has_values = true;
  return problem;
}

/// run(problem, steering, executor) on such a problem, once the options are read and checked. of_lengths(the sequences'
/// lengths) says which of their tokens are meant.
template <Element T, KeyValueSource Source, class OfLengths, class Run, class... Options>
void run_on_sequences(engine::problem<T>& problem, Source const& cache, index_t coming, OfLengths const& of_lengths,
                      Run const& run, Options&... options) {
  static_assert(!has_kind<option::sequences, Options...>, "attend: the cache knows the lengths of its sequences");
  scratch memory;
  index_t const sequences = cache.sequences();
  auto* const lengths = memory.allocate<std::int64_t>(sequences + 1);
  for (index_t s = 0; s < sequences; ++s) lengths[s] = cache.size(s) + coming;
  auto const sizes = of_lengths(tensor_view<std::int64_t const, 1>(lengths, {sequences}));
  run_attention(
      problem,
      [&](auto const& p, auto const& policies, auto& executor) {
        if constexpr (requires { cache.check_apart("output", p.output); }) {
          cache.check_apart("log_sum_exp", raise<4>(p.log_sum_exp));
          cache.check_apart("weights", p.weights);
        }
        run(p, policies, executor);
      },
      options..., sizes);
}
template <Element T, KeyValueSource Source, class Run, class... Options>
void run_on_cache(engine::problem<T>& problem, Source const& cache, index_t coming, Run const& run,
                  Options&... options) {
  run_on_sequences(problem, cache, coming, [](auto const& lengths) { return padded_keys(lengths); }, run, options...);
}

}  // namespace detail

/// Attention of the last tokens of each sequence to all that its cache holds. Options: one mask, any number of scores,
/// scale, softmax or sinks, rotary_queries, head_gates, log_sum_exp, weights, count_tiles, executor. Masks and scores
/// that hold a tensor over keys (bias, boolean_mask) have as many keys as the longest sequence. Query and output are
/// float, half or bfloat16, or double for a cache of double.
///
/// Throws argument_error, before anything is written, where shapes or an option do not fit.
template <TensorArgument Query, KeyValueSource Source, TensorArgument Output, class... Options>
  requires(!TensorArgument<Source>)
void decode_attention(Query const& query, Source const& cache, Output&& output, Options&&... options) {
  using T = element_of_t<Output>;
  static_assert(Element<T>, "attend: elements are float, double, Eigen::half or Eigen::bfloat16");
  static_assert(std::same_as<element_of_t<Query const>, T>, "attend: query and output must have one element type");
  detail::check_decode_options<Options...>();
  auto problem = detail::cache_problem<T>(extend::raise<4>(view_of(query)), cache, extend::raise<4>(view_of(output)));
  detail::run_on_cache(
      problem, cache, 0,
      [&cache](auto const& p, auto const& policies, auto& executor) {
        engine::run_split(p, cache, policies, executor);
      },
      options...);
}

/// The same, over tensors [batch, head, token, dimension], as softmax_attention takes them: `padded`, `padded_keys` and
/// `ragged` say the lengths of sequences.
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void decode_attention(Query const& query, Key const& key, Value const& value, Output&& output, Options&&... options) {
  using T = element_of_t<Output>;
  static_assert(Element<T>, "attend: elements are float, double, Eigen::half or Eigen::bfloat16");
  static_assert(std::same_as<element_of_t<Query const>, T> && std::same_as<element_of_t<Key const>, T> &&
                    std::same_as<element_of_t<Value const>, T>,
                "attend: query, key, value and output must have one element type");
  detail::check_decode_options<Options...>();
  auto problem = detail::tensor_problem<T>(extend::raise<4>(view_of(query)), extend::raise<4>(view_of(key)),
                                           extend::raise<4>(view_of(value)), extend::raise<4>(view_of(output)));
  detail::run_attention(
      problem,
      [](auto const& p, auto const& policies, auto& executor) {
        engine::run_split(p, engine::problem_rows<T>(p), policies, executor);
      },
      options...);
}

}  // namespace attend::inline ATTEND_TARGET
