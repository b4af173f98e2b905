// SPDX-License-Identifier: BSD-3-Clause
// Merging attention over disjoint sets of keys, by log-sum-exp.
//
//   lse    = ln sum_i exp(lse_i)
//   output = sum_i exp(lse_i - lse) output_i
//
// is the attention over all of the keys together: exactly, in any order and any grouping. A part that saw nothing has
// lse_i = -inf and no influence, whatever its output holds.
//
// It is what attention over keys held apart is made of: over pieces on several machines (Bin Lin et al.: Infinite-LLM
// with DistAttention, 2024; Shaoyuan Chen et al.: Lamina, 2024), passed around a ring (Hao Liu et al.: Ring Attention,
// 2023), split over the threads of a decoder (Tri Dao et al.: Flash-Decoding, 2023), or a prefix that many sequences
// share and their own suffixes (Zihao Ye et al.: Cascade Inference, 2024; Jordan Juravsky et al.: Hydragen, 2024).
#pragma once

#include <span>

#include "../../call/allows.hpp"
#include "../../core/check.hpp"
#include "../../core/executor.hpp"
#include "../../core/scratch.hpp"
#include "../../engine/softmax/join_parts.hpp"
#include "../../policy/output.hpp"

namespace attend::inline ATTEND_TARGET {

namespace caches {

/// Holds views of an attention over some of the keys: its output and its log-sum-exp.
template <Element T>
struct partial_attention {
  tensor_view<T const, 4> output;                       // [batch, query head, query, value dimension]
  tensor_view<accumulation_t<T> const, 3> log_sum_exp;  // [batch, query head, query]

  /// Leading axes may be left out.
  template <TensorArgument Output, TensorArgument LogSumExp>
  partial_attention(Output const& outputs, LogSumExp const& rows)
      : output(raise<4>(view_of(outputs))), log_sum_exp(raise<3>(view_of(rows))) {}
};
template <class Output, class LogSumExp>
partial_attention(Output const&, LogSumExp const&) -> partial_attention<element_of_t<Output const>>;

}  // namespace caches

namespace detail {

template <class A, class B, int Rank>
bool same_place(tensor_view<A, Rank> const& a, tensor_view<B, Rank> const& b) {
  return static_cast<void const*>(a.data()) == b.data() && a.strides() == b.strides();
}

template <Element T, Element To>
void check_parts(std::span<partial_attention<T> const> parts, tensor_view<To, 4> const& output,
                 tensor_view<accumulation_t<T>, 3> const& log_sum_exp) {
  static_assert(std::same_as<accumulation_t<T>, accumulation_t<To>>,
                "attend: parts and output must have one accumulation type");
  check_output_view("output", output);
  static constexpr char const* axes[] = {"batch", "heads", "tokens", "head dimension"};
  bool const wants_rows = log_sum_exp.data() != nullptr;
  if (wants_rows) {
    check_output_view("log_sum_exp", log_sum_exp);
    for (int axis : {0, 1, 2})
      check_extent("log_sum_exp", axes[axis], log_sum_exp.extent(axis), output.extent(axis), "output");
    check_apart("log_sum_exp", raise<4>(log_sum_exp), "output", output);
  }
  for (partial_attention<T> const& part : parts) {
    check_view("parts (output)", part.output);
    check_view("parts (log_sum_exp)", part.log_sum_exp);
    for (int axis : {0, 1, 2, 3})
      check_extent("parts (output)", axes[axis], part.output.extent(axis), output.extent(axis), "output");
    for (int axis : {0, 1, 2})
      check_extent("parts (log_sum_exp)", axes[axis], part.log_sum_exp.extent(axis), output.extent(axis), "output");
    if (!same_place(output, part.output)) check_apart("output", output, "parts (output)", part.output);
    check_apart("output", output, "parts (log_sum_exp)", raise<4>(part.log_sum_exp));
    if (!wants_rows) continue;
    check_apart("log_sum_exp", raise<4>(log_sum_exp), "parts (output)", part.output);
    if (!same_place(log_sum_exp, part.log_sum_exp))
      check_apart("log_sum_exp", raise<4>(log_sum_exp), "parts (log_sum_exp)", raise<4>(part.log_sum_exp));
  }
}

}  // namespace detail

namespace caches {

/// Merges any number of parts, a contiguous range of partial_attention, into `output` [batch, query head, query, value
/// dimension]. Parts and output may have different element types with one accumulation type. Options: log_sum_exp of
/// all parts together, and executor. The output may be the very memory of one of the parts, and so may the log-sum-exp;
/// otherwise nothing may overlap. Without parts the output is 0 and the log-sum-exp -inf.
///
/// Throws argument_error, before anything is written, where shapes or memory do not fit.
///
///     softmax_attention(q, k, v, o, log_sum_exp(lse));
///     softmax_attention(q, k2, v2, o2, log_sum_exp(lse2));
///     merge(std::vector<partial_attention<float>>{{o, lse}, {o2, lse2}}, o);
template <class Parts, TensorArgument Output, class... Options>
void merge(Parts const& parts, Output&& output, Options&&... options) {
  arithmetic_mode const arithmetic;
  call::allows<option::log_sum_exp, option::executor>::check<Options...>();
  std::span const list(parts);
  using part_type = std::remove_cv_t<typename decltype(list)::element_type>;
  using T = typename decltype(part_type::output)::value_type;
  using A = accumulation_t<T>;
  auto const to = raise<4>(view_of(output));
  tensor_view<A, 3> rows;
  detail::absent none;
  if constexpr (detail::has_kind<option::log_sum_exp, Options...>)
    rows = detail::find_option<option::log_sum_exp>(none, options...).rows;
  auto& executor = call::executor_of(options...);
  detail::check_parts<T>(std::span<part_type const>(list), to, rows);

  index_t const count = static_cast<index_t>(list.size()), heads = to.extent(1), tokens = to.extent(2);
  auto const merge_head = [&](index_t task) {
    index_t const batch = task / heads, head = task % heads;
    scratch memory;
    A* const factor = memory.allocate<A>(count);
    for (index_t token = 0; token < tokens; ++token) {
      for (index_t i = 0; i < count; ++i) factor[i] = list[static_cast<std::size_t>(i)].log_sum_exp(batch, head, token);
      A const all = engine::merge_factors(factor, count);
      if (to.extent(3) > 0)
        engine::merge_rows(
            factor, count, [&](index_t i) { return &list[static_cast<std::size_t>(i)].output(batch, head, token, 0); },
            to.extent(3), &to(batch, head, token, 0));
      if (rows.data()) rows(batch, head, token) = all;
    }
  };
  if (to.empty() && !rows.data()) return;
  double const numbers = static_cast<double>(to.extent(0) * heads) * static_cast<double>(tokens * to.extent(3));
  detail::parallel_for(executor, to.extent(0) * heads,
                       detail::loop_cost{.bytes = numbers * static_cast<double>(count + 1) * sizeof(T)}, merge_head);
}

}  // namespace caches

}  // namespace attend::inline ATTEND_TARGET
