// SPDX-License-Identifier: BSD-3-Clause
// Hepos (head-wise positional strides): each head of cross attention sees one residue class of the source's positions,
// and the heads together see all.
//
//   o_i of head h = softmax attention of q_i to the keys j with j mod S = h mod S
//
//   query, key, value, output   as for softmax_attention, with equal head counts
//
// Positions choose, not what stands there. A class of keys is a view with S times the stride, and so are its heads:
// nothing is gathered or copied.
//
// Cost: 1 / S of dense attention, in time and in what a cache would keep for a head.
//
// Luyang Huang, Shuyang Cao, Nikolaus Parulian, Heng Ji, Lu Wang: Efficient Attentions for Long Document Summarization,
// 2021.
#pragma once

#include "../../call/plan.hpp"

namespace attend::inline ATTEND_TARGET {

namespace systems {

/// Lets head h see every `stride`-th key, from key h mod stride on. Query, key, value and output have the shapes of
/// softmax_attention, with equal head counts. Options: scale (1/sqrt(key dimension) unless given), log_sum_exp and
/// executor.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an option do not fit, head
/// counts differ, or the stride is less than 1.
///
///     hepos_attention(q, k, v, o, 4);  // a quarter of the keys for each head
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, class... Options>
void hepos_attention(Query const& query, Key const& key, Value const& value, Output&& output, index_t stride,
                     Options&&... options) {
  using T = element_of_t<Output>;
  if (stride < 1 || stride >= token_limit) fail("stride", "expected 1 to ", token_limit - 1, ", got ", stride);
  tensor_view<T const, 4> const q = raise<4>(view_of(query)), k = raise<4>(view_of(key)), v = raise<4>(view_of(value));
  tensor_view<T, 4> const o = raise<4>(view_of(output));
  auto problem = call::tensor_problem<T>(q, k, v, o);
  detail::check_extent("key", "heads", k.extent(1), q.extent(1), "query");
  detail::check_extent("value", "heads", v.extent(1), q.extent(1), "query");
  // All checks come before the first class is written.
  auto whole = call::plan<call::allows<option::scale, option::log_sum_exp, option::executor>>(problem, options...);

  auto const heads_of = [&](auto const& all, index_t first, index_t head_axis) {
    auto extents = all.extents();
    auto strides = all.strides();
    auto const axis = static_cast<std::size_t>(head_axis);
    auto* const data = all.data() + first * strides[axis];
    extents[axis] = divide_up(extents[axis] - first, stride);
    strides[axis] *= stride;
    return std::remove_cvref_t<decltype(all)>(data, extents, strides);
  };
  for (index_t residue = 0; residue < std::min(stride, q.extent(1)); ++residue) {
    auto const keys_of = [&](tensor_view<T const, 4> const& all) {
      auto const of_heads = heads_of(all, residue, 1);
      return residue < all.extent(2)
                 ? heads_of(of_heads, residue, 2)
                 : tensor_view<T const, 4>(all.data(), {all.extent(0), of_heads.extent(1), 0, all.extent(3)});
    };
    auto of_class = call::tensor_problem<T>(heads_of(q, residue, 1), keys_of(k), keys_of(v), heads_of(o, residue, 1));
    auto plan = call::plan(of_class, scale(static_cast<double>(problem.scale)), whole.executor);
    if (problem.log_sum_exp.data()) of_class.log_sum_exp = heads_of(problem.log_sum_exp, residue, 1);
    call::run(plan, engine::problem_rows(of_class));
  }
}

}  // namespace systems

}  // namespace attend::inline ATTEND_TARGET
