// SPDX-License-Identifier: BSD-3-Clause
// Key-value heads merged into fewer: how a multi-head checkpoint becomes a grouped-query one.
//
//   merged_g = sum over the heads h of group g of  w_h * head_h        w_h = 1 / (heads of the group) unless given
//
// A head is a matrix: its rows are tokens (activations, [batch, head, token, dimension]) or a projection's rows
// (weights, [head, row, column]); merging is linear, so that both give the same attention. Groups are consecutive
// heads.
//
//   mean                      Joshua Ainslie et al.: GQA: Training Generalized Multi-Query Transformer Models from
//                             Multi-Head Checkpoints, 2023
//   weights [head]            Sai Sena Chinnakonduru, Astarag Mohapatra: Weighted Grouped Query Attention in
//   weights [head, 1, column] Transformers, 2024: WGQA, COLWGQA and ROWWGQA
//   weights [head, row, 1]
//
// Cost: every head is read once.
#pragma once

#include <vector>

#include "../../core/arithmetic_mode.hpp"
#include "../../core/check.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// merged += head * weight, for one row; the weight is one number or one for each column.
template <Element T>
void add_weighted_row(T const* head, accumulation_t<T> const* weight, bool weight_per_column, accumulation_t<T>* merged,
                      index_t columns) {
  for (index_t c = 0; c < columns; ++c)
    merged[c] += static_cast<accumulation_t<T>>(head[c]) * weight[weight_per_column ? c : 0];
}

template <Element T>
void merge_heads(tensor_view<T const, 4> const& heads, tensor_view<accumulation_t<T> const, 3> const& weights,
                 tensor_view<T, 4> const& merged) {
  arithmetic_mode const arithmetic;
  using A = accumulation_t<T>;
  check_view("heads", heads);
  check_output_view("merged", merged);
  check_extent("merged", "batch", merged.extent(0), heads.extent(0), "heads");
  check_extent("merged", "rows", merged.extent(2), heads.extent(2), "heads");
  check_extent("merged", "columns", merged.extent(3), heads.extent(3), "heads");
  if (merged.extent(1) == 0 ? heads.extent(1) != 0 : heads.extent(1) % merged.extent(1) != 0)
    fail("merged", "expected a head count that divides ", heads.extent(1), " (heads), got ", merged.extent(1));
  bool const weighted = weights.data() != nullptr;
  if (weighted) {
    check_view("weights", weights);
    check_extent("weights", "heads", weights.extent(0), heads.extent(1), "heads");
    if (weights.extent(1) != 1) check_extent("weights", "rows", weights.extent(1), heads.extent(2), "heads");
    if (weights.extent(2) != 1) check_extent("weights", "columns", weights.extent(2), heads.extent(3), "heads");
    check_apart("merged", raise<4>(merged), "weights", raise<4>(weights));
  }
  check_apart("merged", merged, "heads", heads);
  if (merged.empty()) return;

  index_t const group = heads.extent(1) / merged.extent(1), columns = heads.extent(3);
  A const mean = A(1) / static_cast<A>(group);
  std::vector<A> sum(static_cast<std::size_t>(columns));
  for (index_t b = 0; b < heads.extent(0); ++b)
    for (index_t g = 0; g < merged.extent(1); ++g)
      for (index_t r = 0; r < heads.extent(2); ++r) {
        std::fill(sum.begin(), sum.end(), A(0));
        for (index_t h = g * group; h < (g + 1) * group; ++h) {
          A const* const weight = weighted ? &weights(h, weights.extent(1) == 1 ? 0 : r, 0) : &mean;
          add_weighted_row(&heads(b, h, r, 0), weight, weighted && weights.extent(2) != 1, sum.data(), columns);
        }
        for (index_t c = 0; c < columns; ++c) merged(b, g, r, c) = static_cast<T>(sum[static_cast<std::size_t>(c)]);
      }
}

}  // namespace detail

namespace systems {

/// Writes the mean of each group of heads: heads [batch, head, row, column] -> merged [batch, group, row, column], of
/// one element type. Leading axes may be left out. The heads are a multiple of the groups.
///
/// Throws argument_error, before anything is written, where shapes, strides or memory do not fit.
///
///     merge_heads(k, k2);  // all key heads of k -> the fewer ones of k2
template <TensorArgument Heads, TensorArgument Merged>
void merge_heads(Heads const& heads, Merged&& merged) {
  using T = element_of_t<Merged>;
  detail::merge_heads<T>(extend::raise<4>(view_of(heads)), {}, extend::raise<4>(view_of(merged)));
}

/// Writes the weighted sum of each group of heads instead. The weights hold the accumulation type and are [head], or
/// [head, row or 1, column or 1]. Errors are the same.
///
///     merge_heads(k, numbers, k2);  // one weight for each head
template <TensorArgument Heads, TensorArgument Weights, TensorArgument Merged>
void merge_heads(Heads const& heads, Weights const& weights, Merged&& merged) {
  using T = element_of_t<Merged>;
  static_assert(std::same_as<element_of_t<Weights const>, accumulation_t<T>>,
                "attend: weights hold the accumulation type: float, or double for tensors of double");
  auto const view = view_of(weights);
  tensor_view<accumulation_t<T> const, 3> weight;
  if constexpr (decltype(view)::rank == 1)
    weight = {view.data(), {view.extent(0), 1, 1}, {view.stride(0), 0, 0}};
  else
    weight = view;
  if (weight.data() == nullptr && view.extent(0) > 0) extend::fail("weights", "expected data, got null");
  detail::merge_heads<T>(extend::raise<4>(view_of(heads)), weight, extend::raise<4>(view_of(merged)));
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
