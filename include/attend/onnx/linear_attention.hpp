// SPDX-License-Identifier: BSD-3-Clause
// ONNX's LinearAttention as one call: a state that is carried through the tokens.
//
//   linear        S_t = S_{t-1} + k_t v_t^T
//   gated         S_t = exp(decay_t) S_{t-1} + k_t v_t^T
//   delta         S_t = S_{t-1} + beta_t k_t (v_t - S_{t-1}^T k_t)^T
//   gated_delta   the same after the decay                                       o_t = scale * q_t^T S_t
//
//   query [batch, token, q_num_heads * d], key [batch, token, kv_num_heads * d], value [batch, token, kv_num_heads *
//   dv], output [batch, token, q_num_heads * dv], states [batch, kv_num_heads, d, dv]
//
// Three axes are the operator's; four, [batch, head, token, dimension], are taken too. Where it differs from the
// library's linear_attention: it is causal, its scale is 1/sqrt(d) unless given, and a state may be of the tensors' own
// type, to which it is then rounded; it is computed in float whichever it is.
//
// Cost: engine/chunked/chunked.hpp; decays and rates of heads are copied once.
#pragma once

#include <string_view>

#include "../attention/linear/linear_attention.hpp"
#include "../policy/decay/feature_decay.hpp"
#include "../policy/decay/token_decay.hpp"
#include "tensors.hpp"

namespace attend::inline ATTEND_TARGET {
namespace onnx {

/// The operator's attributes, with its names and defaults.
struct linear_attention_attributes {
  /// A hint without effect on the result, at least 1: chunks are as long as suits the shape.
  index_t chunk_size = 64;
  /// Both are needed with three axes.
  index_t kv_num_heads = 0;
  index_t q_num_heads = 0;
  /// 0 is 1/sqrt(d).
  double scale = 0;
  /// "linear", "gated", "delta" or "gated_delta".
  std::string_view update_rule = "gated_delta";
};

/// The operator's optional inputs.
template <Element T>
struct linear_attention_inputs {
  /// [batch, kv_num_heads, d, dv] of T, or of float (double for tensors of double); zeros where there is none.
  either_tensor<T const, accumulation_t<T> const, 4> past_state = {};
  /// [batch, token, kv_num_heads] or [batch, token, kv_num_heads * d], logarithms: for the gated rules, and for them
  /// alone.
  optional_tensor<T const, 3> decay = {};
  /// [batch, token, kv_num_heads] or [batch, token, 1]: for the delta rules, and for them alone.
  optional_tensor<T const, 3> beta = {};
};

/// The operator's second output.
template <Element T>
struct linear_attention_outputs {
  /// As past_state, and it may stand in the same memory.
  either_tensor<T, accumulation_t<T>, 4> present_state = {};
};

}  // namespace onnx

namespace detail {

/// [batch, token, number] as [batch, number, token] of the accumulation type.
template <Element T>
tensor_view<accumulation_t<T>, 3> numbers_by_head(scratch& memory, tensor_view<T const, 3> const& given) {
  index_t const batches = given.extent(0), tokens = given.extent(1), heads = given.extent(2);
  tensor_view<accumulation_t<T>, 3> const turned(memory.allocate<accumulation_t<T>>(batches * tokens * heads + 1),
                                                 {batches, heads, tokens});
  for (index_t b = 0; b < batches; ++b)
    for (index_t h = 0; h < heads; ++h)
      for (index_t t = 0; t < tokens; ++t) turned(b, h, t) = static_cast<accumulation_t<T>>(given(b, t, h));
  return turned;
}

/// Calls with the decay that the input has, or with none.
template <Element T, class Call>
void with_decay(scratch& memory, onnx::optional_tensor<T const, 3> const& decay, index_t heads, Call const& call) {
  if (!decay) return call();
  if (decay.view().extent(2) != heads)
    return call(feature_decay<T>(with_heads("decay", decay.view(), "kv_num_heads", heads)));
  call(token_decay<accumulation_t<T>>(numbers_by_head<T>(memory, decay.view())));
}

}  // namespace detail

namespace onnx {

/// Linear attention of ONNX: optional inputs and outputs are given by name, in the shapes that their comments say. All
/// tensors but the states have one element type: float, double, half or bfloat16.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an attribute do not fit.
///
///     onnx::linear_attention(query_rows, key_rows, value_rows, output_rows, {.kv_num_heads = 2, .q_num_heads = 8},
///                            {.decay = rows}, {.present_state = state});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, Executor E = serial>
void linear_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                      linear_attention_attributes const& attributes,
                      linear_attention_inputs<element_of_t<Output>> const& inputs = {},
                      linear_attention_outputs<element_of_t<Output>> const& outputs = {}, E&& executor = {}) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  static_assert(std::same_as<element_of_t<Query const>, T> && std::same_as<element_of_t<Key const>, T> &&
                    std::same_as<element_of_t<Value const>, T>,
                "attend: query, key, value and output must have one element type");
  auto const& rule = attributes.update_rule;
  bool const gated = rule == "gated" || rule == "gated_delta", delta = rule == "delta" || rule == "gated_delta";
  if (!gated && !delta && rule != "linear")
    fail("update_rule", "expected linear, gated, delta or gated_delta, got ", rule);
  if (static_cast<bool>(inputs.decay) != gated)
    fail("decay", gated ? "expected a tensor with update_rule " : "expected none with update_rule ", rule);
  if (static_cast<bool>(inputs.beta) != delta)
    fail("beta", delta ? "expected a tensor with update_rule " : "expected none with update_rule ", rule);
  if (attributes.chunk_size < 1) fail("chunk_size", "expected at least 1, got ", attributes.chunk_size);

  engine::state_problem<T> p;
  p.query = attend::detail::with_heads("query", view_of(query), "q_num_heads", attributes.q_num_heads);
  p.key = attend::detail::with_heads("key", view_of(key), "kv_num_heads", attributes.kv_num_heads);
  p.value = attend::detail::with_heads("value", view_of(value), "kv_num_heads", attributes.kv_num_heads);
  p.output = attend::detail::with_heads("output", view_of(output), "q_num_heads", attributes.q_num_heads);
  index_t const batches = p.key.extent(0), heads = p.key.extent(1), tokens = p.key.extent(2),
                dimension = p.key.extent(3);
  attend::detail::check_extent("query", "tokens", p.query.extent(2), tokens, "key");
  attend::detail::check_divides("key", heads, p.query.extent(1), "query");
  attend::detail::check_extent("value", "heads", p.value.extent(1), heads, "key");
  if (inputs.decay) {
    auto const& decay = inputs.decay.view();
    attend::detail::check_shape("decay", decay, {batches, tokens, decay.extent(2)}, "batch, token, numbers");
    if (decay.extent(2) != heads && decay.extent(2) != heads * dimension)
      fail("decay", "expected a last extent of ", heads, " (kv_num_heads) or ", heads * dimension,
           " (kv_num_heads * d), got ", decay.extent(2));
  }
  if (inputs.beta) {
    auto const& beta = inputs.beta.view();
    attend::detail::check_shape("beta", beta, {batches, tokens, beta.extent(2)}, "batch, token, numbers");
    if (beta.extent(2) != heads && beta.extent(2) != 1)
      fail("beta", "expected a last extent of ", heads, " (kv_num_heads) or 1, got ", beta.extent(2));
  }

  scratch memory;
  std::array<index_t, 4> const state{batches, heads, dimension, p.value.extent(3)};
  char const* const axes = "batch, key head, key dimension, value dimension";
  inputs.past_state.with([&](auto const& given) {
    attend::detail::check_shape("past_state", given, state, axes);
    auto const wide = attend::detail::accumulating(memory, given);
    if constexpr (!std::is_const_v<std::remove_pointer_t<decltype(wide.data())>>)
      attend::detail::copy_rows<A>(given, wide, executor);
    p.initial_state = wide;
  });
  outputs.present_state.with([&](auto const& given) {
    attend::detail::check_shape("present_state", given, state, axes);
    attend::detail::check_output_view("present_state", given);
    for (auto const& [name, read] :
         {std::pair<char const*, tensor_view<T const, 4>>{"query", p.query}, {"key", p.key}, {"value", p.value}})
      attend::detail::check_apart("present_state", given, name, read);
    attend::detail::check_apart("present_state", given, "output", p.output);
    p.final_state = attend::detail::accumulating(memory, given);
  });

  causal const along;
  attend::scale const factor(attributes.scale != 0 ? attributes.scale : attend::detail::usual_scale(dimension));
  attend::detail::with_decay<T>(memory, inputs.decay, heads, [&](auto const&... decay) {
    if (!inputs.beta) return call::run_states(call::plan_states(p, memory, along, factor, decay..., executor));
    delta_rule<A> const rate(attend::detail::numbers_by_head<T>(memory, inputs.beta.view()));
    call::run_states(call::plan_states(p, memory, along, factor, decay..., rate, executor));
  });
  outputs.present_state.with([&](auto const& given) {
    attend::detail::copy_rows<element_of_t<decltype(given)>>(p.final_state, given, executor);
  });
}

}  // namespace onnx
}  // namespace attend::inline ATTEND_TARGET
