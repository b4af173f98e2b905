// SPDX-License-Identifier: BSD-3-Clause
// The tensors of a call, as a problem whose shapes are checked, before its options are read.
//
//   query  [batch, query head, query, key dimension]     output [batch, query head, query, value dimension]
//   key    [batch, key head,   key,   key dimension]     value  [batch, value head, key,   value dimension]
//
// or, in place of key and value, a cache of as many sequences as there are batches.
#pragma once

#include "../cache/key_value_rows.hpp"
#include "../core/check.hpp"
#include "../core/scratch.hpp"
#include "../engine/softmax/problem.hpp"

namespace attend::inline ATTEND_TARGET::call {

/// The element type of a call's tensors, which must be the same for all of them and one of the supported types.
template <class T, class... Tensors>
struct one_element_type {
  static_assert(Element<T>, "attend: elements are float, double, Eigen::half or Eigen::bfloat16");
  static_assert((std::same_as<element_of_t<Tensors const>, T> && ...),
                "attend: query, key, value and output must have one element type");
  using type = T;
};
template <class Output, class... Inputs>
struct written_element_type : one_element_type<element_of_t<Output>, Inputs...> {
  static_assert(!std::is_const_v<std::remove_pointer_t<decltype(view_of(std::declval<Output&>()).data())>>,
                "attend: the output is const: it is what a call writes");
};
template <class Output, class... Inputs>
using element_of_call = typename written_element_type<Output, Inputs...>::type;

/// The shape of queries and keys, without values.
template <Element T>
problem_shape checked_shape(tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key) {
  using namespace detail;
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

/// Checks values, and adds their extents to the shape.
template <Element T>
void check_value(tensor_view<T const, 4> const& value, problem_shape& shape) {
  using namespace detail;
  check_view("value", value);
  check_extent("value", "batch", value.extent(0), shape.batches, "query");
  check_extent("value", "tokens", value.extent(2), shape.keys, "key");
  if (value.extent(1) == 0 ? shape.query_heads != 0 : shape.query_heads % value.extent(1) != 0)
    fail("value", "expected a head count that divides ", shape.query_heads, " (query), got ", value.extent(1));
  shape.value_heads = value.extent(1);
  shape.value_dimension = value.extent(3);
}

/// Checks the extents of a tensor that has the output's.
template <class View>
void check_extents_of_output(char const* argument, View const& output, problem_shape const& shape) {
  using namespace detail;
  check_extent(argument, "batch", output.extent(0), shape.batches, "query");
  check_extent(argument, "heads", output.extent(1), shape.query_heads, "query");
  check_extent(argument, "tokens", output.extent(2), shape.queries, "query");
  check_extent(argument, "head dimension", output.extent(3), shape.value_dimension, "value");
}

/// Checks values and output, and adds their extents to the shape.
template <Element T>
void check_values(tensor_view<T const, 4> const& value, tensor_view<T, 4> const& output, problem_shape& shape) {
  check_value<T>(value, shape);
  detail::check_output_view("output", output);
  check_extents_of_output("output", output, shape);
}

/// The problem of four tensors. Everything is checked that does not depend on options.
template <Element T>
engine::problem<T> tensor_problem(tensor_view<T const, 4> const& query, tensor_view<T const, 4> const& key,
                                  tensor_view<T const, 4> const& value, tensor_view<T, 4> const& output) {
  engine::problem<T> problem(query, key, checked_shape<T>(query, key));
  problem.value = value;
  problem.output = output;
  problem.has_values = true;
  check_values<T>(value, output, problem.shape);
  return problem;
}

/// The same for the tensors of a call as its caller gave them.
template <class Query, class Key, class Value, class Output>
auto problem_of(Query const& query, Key const& key, Value const& value, Output& output) {
  using T = element_of_call<Output, Query, Key, Value>;
  return tensor_problem<T>(raise<4>(view_of(query)), raise<4>(view_of(key)), raise<4>(view_of(value)),
                           raise<4>(view_of(output)));
}

/// Checks that no written tensor overlaps a tensor that is read or another written tensor.
template <Element T>
void check_memory(engine::problem<T> const& p) {
  auto const log_sum_exp = raise<4>(p.log_sum_exp), key_mass = raise<4>(p.key_mass),
             entropy = raise<4>(p.statistics.entropy);
  detail::named_layout const written[] = {{"output", p.output},
                                          {"log_sum_exp", log_sum_exp},
                                          {"key_mass", key_mass},
                                          {"weights", p.weights},
                                          {"logits", p.logits},
                                          {"entropy", entropy},
                                          {"range_mass", p.statistics.range_mass},
                                          {"heaviest_keys (keys)", p.statistics.heaviest_keys},
                                          {"heaviest_keys (weights)", p.statistics.heaviest_weights},
                                          {"block_maxima", p.statistics.block_maxima}};
  detail::named_layout const read[] = {{"query", p.query},
                                       {"key", p.key},
                                       {"value", p.value},
                                       {"slots (keys)", p.slot_key},
                                       {"slots (values)", p.slot_value}};
  detail::check_apart(written, read);
}

/// The longest of a cache's sequences once each has `coming` more tokens.
template <KeyValueSource Source>
index_t longest_in(Source const& cache, index_t coming) {
  index_t longest = 0;
  for (index_t s = 0; s < cache.sequences(); ++s) longest = std::max<index_t>(longest, cache.size(s) + coming);
  if (longest >= token_limit) fail("cache", "expected fewer than ", token_limit, " tokens, got ", longest);
  return longest;
}

/// The length of each of a cache's sequences once it has `coming` more tokens.
template <KeyValueSource Source>
index_list lengths_in(Source const& cache, index_t coming, scratch& memory) {
  index_t const sequences = cache.sequences();
  auto* const lengths = memory.allocate<std::int64_t>(sequences + 1);
  for (index_t s = 0; s < sequences; ++s) lengths[s] = cache.size(s) + coming;
  return tensor_view<std::int64_t const, 1>(lengths, {sequences});
}

/// Checks that a written tensor does not overlap the memory of a store, where the store offers such a check.
template <KeyValueSource Source, class View>
void check_apart_from_cache(Source const& cache, char const* argument, View const& written) {
  if constexpr (requires { cache.check_apart(argument, written); }) cache.check_apart(argument, written);
}

/// Checks the tensors of a call on a cache against the cache.
template <Element T, KeyValueSource Source>
void check_on_cache(tensor_view<T const, 4> const& query, Source const& cache, tensor_view<T, 4> const& output) {
  using namespace detail;
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
  check_output_view("output", output);
  check_extent("output", "batch", output.extent(0), query.extent(0), "query");
  check_extent("output", "heads", output.extent(1), query.extent(1), "query");
  check_extent("output", "tokens", output.extent(2), query.extent(2), "query");
  check_extent("output", "head dimension", output.extent(3), cache.value_dimension(), "the cache");
  check_readable(cache);
  check_apart_from_cache(cache, "output", output);
}

/// The problem of queries to a cache whose sequences will each have `coming` more tokens when the problem is run.
template <Element T, KeyValueSource Source>
engine::problem<T> cache_problem(tensor_view<T const, 4> const& query, Source const& cache,
                                 tensor_view<T, 4> const& output, index_t coming = 0) {
  check_on_cache<T>(query, cache, output);
  engine::problem<T> problem(
      query, {},
      {query.extent(0), query.extent(1), detail::key_heads_of(cache), detail::value_heads_of(cache), query.extent(2),
       longest_in(cache, coming), query.extent(3), output.extent(3), query.extent(0)});
  problem.output = output;
  problem.has_values = true;
  return problem;
}

}  // namespace attend::inline ATTEND_TARGET::call
