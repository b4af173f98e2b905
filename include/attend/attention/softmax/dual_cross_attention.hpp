// SPDX-License-Identifier: BSD-3-Clause
// Dual cross-attention (DCAL): an image's most relevant tokens look at all of it once more, and, in training, two
// images look at each other's keys.
//
//   global-local   o = softmax(scale Q_R K^T) V      Q_R the R rows of Q with the largest relevance:
//   chosen_query_attention pair-wise      o_1 = softmax(scale Q_1 [K_1; K_2]^T) [V_1; V_2]
//
// Relevance is the class token's row of the attention rollout of the layers before (attention_rollout.hpp). The
// pair-wise kind is one softmax over two sets of keys: softmax_attention with prefix_key_values{k2, v2}.
//
// Cost: softmax attention of R queries; memory: those rows, copied.
//
// Haowei Zhu et al.: Dual Cross-Attention Learning for Fine-Grained Visual Categorization and Object Re-Identification,
// 2022.
#pragma once

#include "../../select/top_k.hpp"
#include "softmax_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Attends from the most relevant queries of each batch. query [batch, query head, query, key dimension], key and value
/// are those of softmax_attention; relevance [batch, query] of float; output [batch, query head, R, value dimension],
/// and chosen [batch, R] of std::int32_t, the queries whose rows these are, ascending. Of equal relevance the first
/// ones count. Options: those of softmax_attention that do not ask where a query stands: scale, slots, log_sum_exp and
/// an executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, or there
/// are fewer queries than R.
///
///     Eigen::Tensor<float, 2, Eigen::RowMajor> const relevance = matrix;
///     Eigen::Tensor<std::int32_t, 2, Eigen::RowMajor> chosen(1, o.dimension(2));
///     chosen_query_attention(q, k, v, relevance, chosen, o);
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Relevance,
          TensorArgument Chosen, TensorArgument Output, class... Options>
void chosen_query_attention(Query const& query, Key const& key, Value const& value, Relevance const& relevance,
                            Chosen&& chosen, Output&& output, Options&&... options) {
  using namespace detail;
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  call::allows<option::scale, option::slots, option::log_sum_exp, option::executor>::check<Options...>();
  tensor_view<T const, 4> const q = raise<4>(view_of(query));
  tensor_view<float const, 2> const scores = raise<2>(view_of(relevance));
  tensor_view<std::int32_t, 2> const list = raise<2>(view_of(chosen));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  index_t const batches = q.extent(0), heads = q.extent(1), queries = q.extent(2), dimension = q.extent(3);
  check_view("query", q);
  check_output_view("output", o);
  index_t const count = o.extent(2);
  if (count > queries) fail("output", "expected at most ", queries, " tokens (as query), got ", count);
  check_view("relevance", scores);
  check_extent("relevance", "batch", scores.extent(0), batches, "query");
  check_extent("relevance", "tokens", scores.extent(1), queries, "query");
  check_output_view("chosen", list);
  check_extent("chosen", "batch", list.extent(0), batches, "query");
  check_extent("chosen", "tokens", list.extent(1), count, "output");

  scratch memory;
  tensor_view<T, 4> const rows(memory.allocate<T>(batches * heads * count * dimension),
                               {batches, heads, count, dimension});
  auto* const best = memory.allocate<std::int32_t>(batches * count + 1);
  for (index_t b = 0; b < batches; ++b) {
    std::int32_t* const of = best + b * count;
    if (queries > 0) top_k(&scores(b, 0), queries, count, of);
    for (index_t h = 0; dimension > 0 && h < heads; ++h)
      for (index_t i = 0; i < count; ++i) std::copy_n(&q(b, h, of[i], 0), dimension, &rows(b, h, i, 0));
  }
  softmax_attention(rows, key, value, o, options...);
  for (index_t b = 0; b < batches; ++b)
    for (index_t i = 0; i < count; ++i) list(b, i) = best[b * count + i];
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
