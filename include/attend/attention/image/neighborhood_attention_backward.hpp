// SPDX-License-Identifier: BSD-3-Clause
// The gradients of neighborhood attention: those of softmax attention (softmax_attention_backward.hpp) over the pairs
// of a query and a key in its window, and of the learned numbers by relative place:
//
//   dtable[h][x] = sum of e_ij over batches and the pairs with j - i + W - 1 = x on each axis
//
// Shapes are those of neighborhood_attention; each gradient has the shape of its tensor.
//
// Cost: five products for each visible pair, where the call has two; memory for a few tiles per thread and a list of
// tokens, and for the table one of its size for each batch and some hundred queries, which are added up in order.
//
// Ali Hassani et al.: Neighborhood Attention Transformer, 2023; Ze Liu et al.: Swin Transformer, 2021 (the table).
#pragma once

#include "../softmax/softmax_attention_backward.hpp"
#include "neighborhood_attention.hpp"

namespace attend::inline ATTEND_TARGET {

namespace detail {

/// An option of a neighborhood on the way back.
template <bool HasGradient, class A, int Axes, class Option>
decltype(auto) on_grid_backward(neighborhood_mask<Axes> const& mask, [[maybe_unused]] index_t query_heads,
                                Option& option) {
  if constexpr (HasGradient && has_kind<option::relative_bias, Option>) {
    auto const table = raise<Axes + 1>(option.table);
    static_assert(std::same_as<typename decltype(table)::value_type, A>,
                  "attend: relative_bias holds the accumulation type: float, or double for tensors of double");
    return grid_bias_with_gradient<A, Axes>(table, mask, query_heads);
  } else {
    return on_grid<A>(mask, option);
  }
}

/// Writes sums [query head, place] to a table, where heads that share it are added up in order.
template <class A, int Axes>
void write_table(tensor_view<A, 2> const& sums, tensor_view<A, Axes + 1> const& table) {
  for (index_t h = 0; h < table.extent(0); ++h)
    for (index_t place = 0; place < sums.extent(1); ++place) {
      index_t offset = h * table.stride(0), rest = place;
      for (int a = Axes; a > 0; rest /= table.extent(a), --a) offset += rest % table.extent(a) * table.stride(a);
      double sum = 0;
      bool const shared = table.extent(0) == 1;
      for (index_t head = shared ? 0 : h; head < (shared ? sums.extent(0) : h + 1); ++head)
        sum += static_cast<double>(sums(head, place));
      table.data()[offset] = static_cast<A>(sum);
    }
}

}  // namespace detail

namespace grids {

/// Writes the gradients of `query`, `key` and `value` of a call of neighborhood_attention, given that of the output.
/// `output` and `log_sum_exp` are those that it wrote with the same options; a normalizer other than softmax leaves the
/// latter empty: tensor_view<float, 3>(). Options, in any order: scale, normalizer, head_gates, relative_bias,
/// full_precision, executor, of_log_sum_exp, and gradients of options: gradient_of_relative_bias, gradient_of_sinks,
/// gradient_of_head_gates. Results have the same bits for any number of threads.
///
/// Throws argument_error, before anything is written, where shapes, windows, memory or an option do not fit.
///
///     neighborhood_axis const axis{.window = 7};
///     neighborhood_attention<2>(q, k, v, o, {56, 56}, {axis, axis}, log_sum_exp(lse));
///     neighborhood_attention_backward<2>(q, k, v, o, lse, of_o, of_q, of_k, of_v, {56, 56}, {axis, axis});
template <int Axes, TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output,
          TensorArgument LogSumExp, TensorArgument OfOutput, TensorArgument OfQuery, TensorArgument OfKey,
          TensorArgument OfValue, class... Options>
void neighborhood_attention_backward(Query const& query, Key const& key, Value const& value, Output const& output,
                                     LogSumExp const& log_sum_exp, OfOutput const& of_output, OfQuery&& of_query,
                                     OfKey&& of_key, OfValue&& of_value,
                                     std::array<index_t, array_size(Axes)> const& extents,
                                     std::array<neighborhood_axis, array_size(Axes)> const& axes,
                                     Options&&... options) {
  using namespace detail;
  using T = typename call::written_element_type<OfQuery, Query, Key, Value, Output, OfOutput, OfKey, OfValue>::type;
  using A = accumulation_t<T>;
  call::allows<option::scale, option::normalizer, option::head_gates, option::precision, option::relative_bias,
               option::executor, option::of_log_sum_exp, option::gradient_of_relative_bias, option::gradient_of_sinks,
               option::gradient_of_head_gates>::template check<Options...>();
  constexpr bool of_table = has_kind<option::gradient_of_relative_bias, Options...>;
  static_assert(!of_table || has_kind<option::relative_bias, Options...>,
                "attend: gradient_of_relative_bias goes with relative_bias");
  auto problem = call::backward_problem<T>(raise<4>(view_of(query)), raise<4>(view_of(key)), raise<4>(view_of(value)));
  index_t const heads = problem.shape.query_heads;
  check_grid<Axes>(problem.shape, extents, axes);
  auto g =
      call::gradient_tensors<T>(raise<4>(view_of(output)), raise<3>(view_of(log_sum_exp)), raise<4>(view_of(of_output)),
                                raise<4>(view_of(of_query)), raise<4>(view_of(of_key)), raise<4>(view_of(of_value)));
  neighborhood_mask<Axes> const mask(extents, axes);
  using call_options =
      call::allows<option::mask, option::score, option::scale, option::normalizer, option::head_gates,
                   option::precision, option::executor, option::of_log_sum_exp, option::gradient_of_relative_bias,
                   option::gradient_of_sinks, option::gradient_of_head_gates>;
  auto plan = call::plan<call_options>(problem, mask, on_grid_backward<of_table, A>(mask, heads, options)...);
  g.of_options = call::checked_option_gradients(plan.problem, options...);
  call::check_gradients(plan.problem, g, decltype(plan.policies())::normalizer_type::keeps_maximum, options...);
  scratch memory;
  absent const none;
  auto const run = [&] {
    run_in_order(mask, [&](auto const& order) { call::run_gradients<Options...>(plan, g, plan.policies().in(order)); });
  };
  if constexpr (of_table) {
    auto const table = raise<Axes + 1>(find_option<option::relative_bias>(none, options...).table);
    auto const to = raise<Axes + 1>(find_option<option::gradient_of_relative_bias>(none, options...).table);
    call::check_gradient_of<T>("gradient_of_relative_bias", to, table.extents(), "relative_bias");
    check_apart("gradient_of_relative_bias", to, "relative_bias", table);
    check_apart("gradient_of_relative_bias", raise<4>(to), "of_query", g.of_query);
    check_apart("gradient_of_relative_bias", raise<4>(to), "of_key", g.of_key);
    check_apart("gradient_of_relative_bias", raise<4>(to), "of_value", g.of_value);
    index_t places = 1;
    for (int a = 1; a <= Axes; ++a) places *= table.extent(a);
    g.of_options.table = {memory.allocate<A>(heads * places), {heads, places}};
    run();
    write_table<A, Axes>(g.of_options.table, to);
  } else {
    run();
  }
}

}  // namespace grids

}  // namespace attend::inline ATTEND_TARGET
