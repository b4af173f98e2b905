// SPDX-License-Identifier: BSD-3-Clause
// Attention of a target to a long history with embeddings of their own for attending and for representing (DARE).
//
//   s_tj = scale * a_t . a_j               attention embeddings; scale 1 / sqrt(their dimension) unless given
//   I_t  = the k history items with the largest s_tj; ties to the earlier one
//   o_t  = r_t * sum_{j in I_t} softmax_{I_t}(s_tj) r_j      representation embeddings; * element by element
//
//   target_attention [batch, target, attention dimension], history_attention [batch, item, attention dimension]
//   target_representation [batch, target, representation dimension], history_representation [batch, item, ..]
//   output [batch, target, representation dimension]
//
// Cost: the history's attention embeddings are read once for a few targets, which is all of the cost with few of them;
// only the k chosen representations are read.
//
// Ningya Feng et al.: Long-Sequence Recommendation Models Need Decoupled Embeddings, 2025.
#pragma once

#include "../../call/plan.hpp"
#include "../../core/head_loop.hpp"
#include "../../policy/score/scale.hpp"
#include "../../select/row_products.hpp"
#include "../../select/top_k.hpp"
#include "merge.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// Some targets of a batch.
template <Element T>
void attend_history(tensor_view<T const, 2> const& target_attention, tensor_view<T const, 2> const& history_attention,
                    tensor_view<T const, 2> const& target_representation,
                    tensor_view<T const, 2> const& history_representation, tensor_view<T, 2> const& output,
                    index_t first, index_t count, index_t most, accumulation_t<T> scale) {
  using A = accumulation_t<T>;
  scratch memory;
  index_t const items = history_attention.extent(0), dimension = output.extent(1);
  auto* const score = memory.allocate<float>(items);
  auto* const chosen = memory.allocate<std::int32_t>(most);
  A* const factor = memory.allocate<A>(most);
  A* const sum = memory.allocate<A>(dimension);
  row_products(
      history_attention, count, row_order::by_count,
      [&](index_t t) { return target_attention.data() + (first + t) * target_attention.stride(0); },
      [&](index_t t, A const* products) {
        for (index_t j = 0; j < items; ++j) score[j] = static_cast<float>(scale * products[j]);
        index_t const found = top_k(score, items, most, chosen);
        for (index_t c = 0; c < found; ++c) factor[c] = scale * products[chosen[c]];
        engine::merge_factors(factor, found);
        engine::merge_rows(
            factor, found, [&](index_t c) { return &history_representation(chosen[c], 0); }, dimension, sum);
        for (index_t c = 0; c < dimension; ++c)
          output(first + t, c) = static_cast<T>(static_cast<A>(target_representation(first + t, c)) * sum[c]);
      });
}

template <class T>
tensor_view<T, 2> batch_of(tensor_view<T, 3> const& all, index_t batch) {
  return {all.data() + batch * all.stride(0), {all.extent(1), all.extent(2)}, {all.stride(1), all.stride(2)}};
}

}  // namespace detail

namespace systems {

/// Attends from targets to the `top` history items that match them best. The five tensors have the shapes that stand at
/// the beginning of this file, and one element type; a leading axis may be left out. Options: scale (1/sqrt(attention
/// dimension) unless given) and executor.
///
/// Throws argument_error, before anything is written, where shapes, strides or memory do not fit, or `top` is less than
/// 1.
///
///     decoupled_embedding_attention(targets, history, target_values, history_values, rows, 50);
template <TensorArgument TargetAttention, TensorArgument HistoryAttention, TensorArgument TargetRepresentation,
          TensorArgument HistoryRepresentation, TensorArgument Output, class... Options>
void decoupled_embedding_attention(TargetAttention const& target_attention, HistoryAttention const& history_attention,
                                   TargetRepresentation const& target_representation,
                                   HistoryRepresentation const& history_representation, Output&& output, index_t top,
                                   Options&&... options) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  call::allows<option::scale, option::executor>::check<Options...>();
  tensor_view<T const, 3> const ta = raise<3>(view_of(target_attention)), ha = raise<3>(view_of(history_attention)),
                                tr = raise<3>(view_of(target_representation)),
                                hr = raise<3>(view_of(history_representation));
  tensor_view<T, 3> const o = raise<3>(view_of(output));
  struct expected {
    char const* name;
    tensor_view<T const, 3> tensor;
    index_t batches, tokens, dimension;
  };
  for (auto const& [name, tensor, batches, tokens, dimension] :
       {expected{"target_attention", ta, ta.extent(0), ta.extent(1), ta.extent(2)},
        expected{"history_attention", ha, ta.extent(0), ha.extent(1), ta.extent(2)},
        expected{"target_representation", tr, ta.extent(0), ta.extent(1), tr.extent(2)},
        expected{"history_representation", hr, ta.extent(0), ha.extent(1), tr.extent(2)},
        expected{"output", o, ta.extent(0), ta.extent(1), tr.extent(2)}}) {
    detail::check_view(name, tensor);
    detail::check_extent(name, "batch", tensor.extent(0), batches, "target_attention");
    detail::check_extent(name, "tokens", tensor.extent(1), tokens, "the attention embeddings");
    detail::check_extent(name, "dimension", tensor.extent(2), dimension, "its counterpart");
    if (name != std::string_view("output")) detail::check_apart("output", o, name, tensor);
  }
  detail::check_output_view("output", o);
  if (ha.extent(1) >= token_limit)
    fail("history_attention", "expected fewer than ", token_limit, " items, got ", ha.extent(1));
  if (top < 1) fail("top", "expected at least 1 item, got ", top);
  A const factor = detail::scale_or<A>(detail::usual_scale(ta.extent(2)), options...);
  auto& executor = call::executor_of(options...);
  index_t const most = std::min(top, ha.extent(1)), group_size = simd::tile_lanes<A>,
                parts = divide_up(ta.extent(1), group_size);
  if (o.empty()) return;
  // A product is ranked as well.
  detail::loop_cost const of_part =
      detail::loop_cost::of(std::min(group_size, ta.extent(1)) * ha.extent(1) * (2 * ta.extent(2) + 8));
  detail::for_heads(executor, ta.extent(0), parts, of_part, [&](index_t batch, index_t part) {
    index_t const first = part * group_size;
    detail::attend_history<T>(detail::batch_of(ta, batch), detail::batch_of(ha, batch), detail::batch_of(tr, batch),
                              detail::batch_of(hr, batch), detail::batch_of(o, batch), first,
                              std::min(group_size, ta.extent(1) - first), most, factor);
  });
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
