// SPDX-License-Identifier: BSD-3-Clause
// Gains: what multiplies weights or outputs after the normalizer has spoken.
//
//   value_gain{g}   output = sum_j p_j g_j v_j with g [batch, value head, key]; batch and head may be 1 or left out.
//                   Xuechen Zhang et al.: Selective Attention, 2024 (the temperature of values).
//   head_gates{x}   output of head h times x_h, with x [batch, query head] or [query head]. A head whose gate is 0 is
//                   skipped: not computed, its output is 0 and its log-sum-exp -inf. Paul Michel, Omer Levy, Graham
//                   Neubig: Are Sixteen Heads Really Better than One?, 2019 (pruning, gates 0 and 1).
#pragma once

#include "../core/check.hpp"
#include "../core/options.hpp"
#include "tile.hpp"

namespace attend::inline ATTEND_TARGET {

namespace options {

/// Multiplies each value by a number: the gains are [batch, value head, key], in the accumulation type. A call throws
/// argument_error where their shape does not fit.
///
///     softmax_attention(q, k, v, o, value_gain(tokens));
template <class T>
struct value_gain {
  using option_kind = option::value_gain;
  tensor_view<T const, 3> gains;

  template <TensorArgument Tensor>
  explicit value_gain(Tensor const& tensor) : gains(extend::raise<3>(view_of(tensor))) {}

  void check(extend::problem_shape const& shape) const {
    detail::check_view("value_gain", gains);
    index_t const expected[] = {shape.batches, shape.value_heads, shape.keys};
    for (int axis = 0; axis < 3; ++axis)
      if (gains.extent(axis) != expected[axis] && (gains.extent(axis) != 1 || axis == 2))
        extend::fail("value_gain", "expected shape ", detail::shape_text<3>({expected[0], expected[1], expected[2]}),
                     " (batch, value head, key) with 1 for a batch or head that is shared, got ",
                     detail::shape_text<3>(gains.extents()));
  }
};
template <class Tensor>
value_gain(Tensor const&) -> value_gain<element_of_t<Tensor const>>;

/// Multiplies the output of each query head by a number, in the accumulation type; a head whose gate is 0 is skipped.
/// The gates are [batch, query head] or [query head]. A call throws argument_error where their shape does not fit.
///
///     softmax_attention(q, k, v, o, causal{}, head_gates(numbers));
template <class T>
struct head_gates {
  using option_kind = option::head_gates;
  tensor_view<T const, 2> gates;

  template <TensorArgument Tensor>
  explicit head_gates(Tensor const& tensor) : gates(extend::raise<2>(view_of(tensor))) {}

  void check(extend::problem_shape const& shape) const {
    detail::check_view("head_gates", gates);
    if (gates.extent(0) != 1) detail::check_extent("head_gates", "batch", gates.extent(0), shape.batches, "query");
    detail::check_extent("head_gates", "heads", gates.extent(1), shape.query_heads, "query");
  }
};
template <class Tensor>
head_gates(Tensor const&) -> head_gates<element_of_t<Tensor const>>;

}  // namespace options

}  // namespace attend::inline ATTEND_TARGET
