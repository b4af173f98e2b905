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
// It is multi-query attention between a prologue and an epilogue, so that one key and one value per token are kept:
//
//   add        o_h = softmax(scale (q + e_h^Q) k') v + e_h^V          e_h^K adds the same to all logits of a row
//   multiply   o_h = (softmax(scale (q (1 + e_h^Q) (1 + e_h^K)) k') v) (1 + e_h^V)
//
// Cost: that of multi-query attention, and one row of scratch for each head and query.
//
// Huiyin Xue, Nikolaos Aletras: Pit One Against Many: Leveraging Attention-head Embeddings for Parameter-efficient
// Multi-head Attention, 2023.
#pragma once

#include "../../core/head_loop.hpp"
#include "../../simd/transform_row.hpp"
#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Says whether an embedding is added to a projection, or multiplies it after 1 was added.
enum class head_combination { add, multiply };

/// Holds how embeddings are combined with projections, and the vectors of all heads in the accumulation type: query and
/// key [head, dimension], value [head, value dimension].
template <class A>
struct head_embeddings {
  head_combination settings;
  tensor_view<A const, 2> query, key, value;
};

}  // namespace systems

namespace detail {

template <Element T>
void combine_row(T const* row, accumulation_t<T> const* embedding, index_t count, head_combination settings, T* to) {
  using V = simd::vector<accumulation_t<T>>;
  simd::transform_row(
      to, count,
      [&](V const& x, V const& e) {
        return settings == head_combination::add ? x + e : simd::fused_multiply_add<accumulation_t<T>>(x, e, x);
      },
      row, embedding);
}

}  // namespace detail

namespace systems {

/// Attends with heads that share one projection. Query, key and value have no head axis; they and the output have the
/// shapes that stand at the beginning of this file, and leading axes may be left out. Options: a mask, scores, scale
/// (1/sqrt(key dimension) unless given), count_tiles and executor.
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
  static_assert(std::same_as<A, accumulation_t<T>>,
                "attend: embeddings hold the accumulation type: float, or double for tensors of double");
  call::allows<option::mask, option::score, option::scale, option::tile_counts, option::executor>::check<Options...>();
  tensor_view<T const, 3> const q = raise<3>(view_of(query));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  auto const as_head = [](auto const& tensor) {
    auto const rows = raise<3>(view_of(tensor));
    using U = element_of_t<decltype(tensor)>;
    return tensor_view<U const, 4>(rows.data(), {rows.extent(0), 1, rows.extent(1), rows.extent(2)},
                                   {rows.stride(0), 0, rows.stride(1), rows.stride(2)});
  };
  index_t const batches = q.extent(0), tokens = q.extent(1), dimension = q.extent(2), heads = o.extent(1);
  detail::check_view("query", q);
  detail::check_output_view("output", o);
  detail::check_apart("output", o, "query", raise<4>(q));
  auto const check = [&](char const* argument, tensor_view<A const, 2> const& vectors, index_t extent, char const* as) {
    detail::check_view(argument, vectors);
    detail::check_extent(argument, "heads", vectors.extent(0), heads, "output");
    detail::check_extent(argument, "dimension", vectors.extent(1), extent, as);
    detail::check_apart("output", o, argument, raise<4>(vectors));
  };
  check("head_embeddings (query)", embeddings.query, dimension, "query");
  check("head_embeddings (key)", embeddings.key, dimension, "query");
  check("head_embeddings (value)", embeddings.value, o.extent(3), "output");

  bool const multiplies = embeddings.settings == head_combination::multiply;
  scratch memory;
  tensor_view<T, 4> const own(memory.allocate<T>(batches * heads * tokens * dimension),
                              {batches, heads, tokens, dimension});
  tensor_view<A, 3> const lse(memory.allocate<A>(batches * heads * tokens), {batches, heads, tokens});
  A* const factor = memory.allocate<A>(heads * dimension);
  for (index_t h = 0; h < heads; ++h)
    for (index_t c = 0; c < dimension; ++c) {
      A const e = embeddings.query(h, c);
      factor[h * dimension + c] = multiplies ? (1 + e) * (1 + embeddings.key(h, c)) - 1 : e;
    }
  auto const of_row = [](index_t numbers) {
    return detail::loop_cost::of(numbers, 2 * numbers * static_cast<index_t>(sizeof(T)));
  };
  auto& executor = call::executor_of(options...);
  if (dimension > 0)
    detail::for_tokens(
        executor, batches, heads, tokens, of_row(dimension), [&](index_t b, index_t h, index_t first, index_t last) {
          for (index_t t = first; t < last; ++t)
            detail::combine_row(&q(b, t, 0), factor + h * dimension, dimension, embeddings.settings, &own(b, h, t, 0));
        });

  softmax_attention(own, as_head(key), as_head(value), o, log_sum_exp(lse), options...);

  if (o.extent(3) > 0)
    detail::for_tokens(executor, batches, heads, tokens, of_row(o.extent(3)),
                       [&](index_t b, index_t h, index_t first, index_t last) {
                         for (index_t t = first; t < last; ++t) {
                           // A row that sees nothing is 0: no value is there to add to.
                           if (lse(b, h, t) == -infinity<A>) continue;
                           T* const row = &o(b, h, t, 0);
                           detail::combine_row(row, &embeddings.value(h, 0), o.extent(3), embeddings.settings, row);
                         }
                       });
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
