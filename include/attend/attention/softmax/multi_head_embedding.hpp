// SPDX-License-Identifier: BSD-3-Clause
// Multiple head embeddings: all heads share one projection of queries, one of keys and one of values, and differ by a
// vector each.
//
//   add        q_h = q + e_h^Q          k_h = k + e_h^K          v_h = v + e_h^V
//   multiply   q_h = q (1 + e_h^Q)      k_h = k (1 + e_h^K)      v_h = v (1 + e_h^V)      channel by channel
//
//   query  [batch, token, dimension]    key [batch, key, dimension]    value [batch, key, value dimension]
//   output [batch, head, token, value dimension]
//
// It is multi-query attention, so that one key and one value per token are kept, in tensors or in a cache:
//
//   o_h = softmax(scale q_h . k_h) v + e_h^V     or     (softmax(scale q_h . k_h) v) (1 + e_h^V)
//
// Queries of heads are made as tiles of them are packed, and keys with rotary positions as blocks of them are read
// (policy/position/embedded_heads.hpp): a cache keeps keys that are not rotated. The values' vectors are added to rows
// of the output as they are written.
//
// Cost: that of multi-query attention; with rotary positions, that of keys with twice as many rotated channels, and
// what rotating them as they are read costs.
//
// Huiyin Xue, Nikolaos Aletras: Pit One Against Many: Leveraging Attention-head Embeddings for Parameter-efficient
// Multi-head Attention, 2023.
#pragma once

#include "../../call/append_plan.hpp"
#include "../../policy/position/embedded_heads.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Holds how embeddings are combined with projections, and the vectors of all heads in the accumulation type: query and
/// key [head, dimension], value [head, value dimension].
template <class A>
struct head_embeddings {
  head_combination settings;
  tensor_view<A const, 2> query, key, value;
};

}  // namespace systems

namespace detail {

/// The options of calls with head embeddings.
using embedding_options = call::allows<option::mask, option::score, option::scale, option::position,
                                       option::log_sum_exp, option::tile_counts, option::executor>;

/// Rows without a head axis as those of `heads` heads.
template <class Tensor>
auto rows_for_heads(Tensor const& tensor, index_t heads) {
  auto const rows = raise<3>(view_of(tensor));
  using T = element_of_t<Tensor const>;
  return tensor_view<T const, 4>(rows.data(), {rows.extent(0), heads, rows.extent(1), rows.extent(2)},
                                 {rows.stride(0), 0, rows.stride(1), rows.stride(2)});
}

/// Checks embeddings against the tensors of a call.
template <Element T, class A>
void check_embeddings(systems::head_embeddings<A> const& embeddings, tensor_view<T const, 4> const& query,
                      tensor_view<T, 4> const& output) {
  static_assert(std::same_as<A, accumulation_t<T>>,
                "attend: embeddings hold the accumulation type: float, or double for tensors of double");
  check_view("query", query);
  check_output_view("output", output);
  auto const check = [&](char const* argument, tensor_view<A const, 2> const& vectors, index_t extent, char const* as) {
    check_view(argument, vectors);
    check_extent(argument, "heads", vectors.extent(0), output.extent(1), "output");
    check_extent(argument, "dimension", vectors.extent(1), extent, as);
    check_apart("output", output, argument, raise<4>(vectors));
  };
  check("head_embeddings (query)", embeddings.query, query.extent(3), "query");
  check("head_embeddings (key)", embeddings.key, query.extent(3), "query");
  check("head_embeddings (value)", embeddings.value, output.extent(3), "output");
}

/// Calls make(options...) for a plan, with the policy that makes queries and keys of heads in place of a rotary one
/// among the options, and then run(plan).
template <class A, class Make, class Run, class... Options>
void run_with_embeddings(systems::head_embeddings<A> const& embeddings, Make const& make, Run const& run,
                         Options&... options) {
  absent const none;
  auto const& settings = find_option<option::position>(none, options...);
  using settings_type = std::remove_cvref_t<decltype(settings)>;
  static_assert(std::same_as<settings_type, absent> || (rotates_keys<settings_type> && !rotates_as_read<settings_type>),
                "attend: of positions, head embeddings take rotary");
  if constexpr (!std::same_as<settings_type, absent>)
    if (settings.moved()) fail("rotary", "expected the positions of the text, got positions of its own");
  embedded_heads<A, settings_type> const heads(embeddings.settings, embeddings.query, embeddings.key, settings);
  std::apply(
      [&](auto&... others) {
        auto plan = make(heads, others...);
        plan.problem.shape.key_dimension = heads.channels();
        plan.problem.of_output = {embeddings.value, embeddings.settings == systems::head_combination::multiply};
        run(plan);
      },
      std::tuple_cat([]<class Option>(Option& option) {
        if constexpr (has_kind<option::position, Option>)
          return std::tuple<>();
        else
          return std::tuple<Option&>(option);
      }(options)...));
}

}  // namespace detail

namespace systems {

/// Attends with heads that share one projection. Query, key and value have no head axis; they and the output have the
/// shapes that stand at the beginning of this file, and leading axes may be left out. Options: a mask, scores, scale
/// (1/sqrt(key dimension) unless given), rotary, log_sum_exp, count_tiles and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit.
///
///     head_embeddings<float> const embeddings{head_combination::add, view_of(matrix), view_of(matrix),
///                                             view_of(matrix)};
///     multi_head_embedding_attention(rows, rows, rows, embeddings, o, causal{});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, class A, TensorArgument Output,
          class... Options>
void multi_head_embedding_attention(Query const& query, Key const& key, Value const& value,
                                    head_embeddings<A> const& embeddings, Output&& output, Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  static_assert(Element<T> && std::same_as<element_of_t<Query const>, T>,
                "attend: query, key, value and output must have one element type");
  detail::embedding_options::check<Options...>();
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  auto const q = detail::rows_for_heads(query, o.extent(1));
  detail::check_embeddings(embeddings, q, o);
  detail::run_with_embeddings(
      embeddings,
      [&](auto&... all) {
        return call::plan(call::problem_of(q, detail::rows_for_heads(key, 1), detail::rows_for_heads(value, 1), o),
                          all...);
      },
      [](auto& plan) { call::run(plan, engine::problem_rows(plan.problem)); }, options...);
}

/// Appends `key` and `value`, not rotated, to all sequences of a cache of one head, and attends from `query` causally,
/// as cached_attention does: a prompt, a chunk of it, or a decoding step. Options are the same; a mask further
/// restricts what tokens see.
///
/// Throws argument_error where shapes, strides, memory or an option do not fit, or where the cache has no room; nothing
/// is written then, and the cache is as it was.
///
///     contiguous_cache<float> shared({.sequences = 1, .key_value_heads = 1, .key_dimension = 128,
///                                     .value_dimension = 128}, 4096);
///     head_embeddings<float> const embeddings{head_combination::add, view_of(matrix), view_of(matrix),
///                                             view_of(matrix)};
///     multi_head_embedding_attention(shared, rows, rows, rows, embeddings, o, rotary(rotary_frequencies(128)));
template <class Cache, TensorArgument Query, TensorArgument Key, TensorArgument Value, class A, TensorArgument Output,
          class... Options>
  requires detail::StoreLike<std::remove_cvref_t<Cache>>
void multi_head_embedding_attention(Cache&& cache, Query const& query, Key const& key, Value const& value,
                                    head_embeddings<A> const& embeddings, Output&& output, Options&&... options) {
  static_assert(detail::has_store_members<std::remove_cvref_t<Cache>>());
  static_assert(call::is_appendable<std::remove_reference_t<Cache>>());
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  detail::embedding_options::check<Options...>();
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  tensor_view<T const, 4> const q = detail::rows_for_heads(query, o.extent(1)), k = detail::rows_for_heads(key, 1),
                                v = detail::rows_for_heads(value, 1);
  detail::check_embeddings(embeddings, q, o);
  detail::run_with_embeddings(
      embeddings, [&](auto&... all) { return call::plan_cached(cache, q, k, v, o, all...); },
      [&](auto& plan) { call::attend_to_new_tokens(cache, detail::absent{}, plan); }, options...);
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
