// SPDX-License-Identifier: BSD-3-Clause
// com.microsoft's MultiHeadAttention as one call.
//
//   s = scale * (query + bias_q).(key + bias_k) + attention_bias + padding
//   output = softmax(s) . (value + bias_v)
//
//   query [batch, q, num_heads * d], key [batch, kv, num_heads * d], value [batch, kv, num_heads * dv],
//   output [batch, q, num_heads * dv]
//   packed: all three as one tensor, [batch, token, num_heads, 3, d], or key and value as [batch, kv, num_heads, 2, d];
//   or key and value with heads as an axis, [batch, num_heads, kv, d], as a cache of another attention has them
//
// Where it differs from softmax_attention:
//   * key_padding_mask does not hide: mask_filter_value, -10000, is added. A query all of whose keys are masked attends
//     to them as if none were.
//   * unidirectional places query i at the past's length + i, and needs as many new keys as queries. It does hide.
//   * A bias of the projections comes along, which costs a copy of query, key and value.
// Left out: past_sequence_length and cache_indirection, for caches in a shared buffer. A cache that grows in place is a
// past that stands in the present's memory.
#pragma once

#include "softmax_call.hpp"
#include "token_state.hpp"

namespace attend::inline ATTEND_TARGET {
namespace onnx::microsoft {

/// The operator's attributes, with its names and defaults.
struct multi_head_attention_attributes {
  double mask_filter_value = -10000;
  /// Needed.
  index_t num_heads = 0;
  /// 0 is 1/sqrt(d).
  double scale = 0;
  index_t unidirectional = 0;
};

/// The operator's optional inputs.
template <Element T>
struct multi_head_attention_inputs {
  /// [num_heads * (d + d + dv)]: of query, key and value.
  optional_tensor<T const, 1> bias = {};
  /// [batch]: lengths; [3 * batch + 2]: lengths and what follows from them; [batch, past + kv] or [batch, q, past +
  /// kv]: 0 is padding.
  optional_tensor<std::int32_t const, 3> key_padding_mask = {};
  /// [batch or 1, num_heads or 1, q, past + kv]
  optional_tensor<T const, 4> attention_bias = {};
  /// [batch, num_heads, past, d] and [..., dv]: both or none.
  optional_tensor<T const, 4> past_key = {}, past_value = {};
};

/// The operator's optional outputs.
template <Element T>
struct multi_head_attention_outputs {
  /// [batch, num_heads, past + kv, d] and [..., dv]: both or none.
  optional_tensor<T, 4> present_key = {}, present_value = {};
  /// [batch, num_heads, q, past + kv]: what goes into the softmax; -inf where unidirectional hides.
  optional_tensor<T, 4> qk = {};
};

}  // namespace onnx::microsoft

namespace detail {

/// A tensor plus a row of numbers for all heads, in memory of its own.
template <Element T, class E>
tensor_view<T const, 4> plus_row(scratch& memory, tensor_view<T const, 4> const& tensor, T const* row, E& executor) {
  index_t const heads = tensor.extent(1), dimension = tensor.extent(3);
  tensor_view<T, 4> const sum(memory.allocate<T>(tensor.extent(0) * heads * tensor.extent(2) * dimension + 1),
                              tensor.extents());
  if (sum.empty()) return sum;
  loop_cost const of_row = loop_cost::of(dimension, 2 * dimension * static_cast<index_t>(sizeof(T)));
  for_tokens(executor, tensor.extent(0), heads, tensor.extent(2), of_row,
             [&](index_t batch, index_t head, index_t first, index_t last) {
               using A = accumulation_t<T>;
               for (index_t token = first; token < last; ++token)
                 for (index_t c = 0; c < dimension; ++c)
                   sum(batch, head, token, c) = static_cast<T>(static_cast<A>(tensor(batch, head, token, c)) +
                                                               static_cast<A>(row[head * dimension + c]));
             });
  return sum;
}

/// What a padding mask of any of its shapes adds to the logits, [batch, 1, query or 1, key].
template <class A>
tensor_view<A const, 4> padding_bias(scratch& memory, onnx::optional_tensor<std::int32_t const, 3> const& mask,
                                     A filter, index_t batches, index_t queries, index_t keys) {
  auto const& given = mask.view();
  check_view("key_padding_mask", given);
  bool const lengths = mask.axes() == 1 && (given.extent(2) == batches || given.extent(2) == 3 * batches + 2);
  bool const of_keys = mask.axes() == 2 && given.extent(1) == batches && given.extent(2) == keys;
  bool const of_pairs = mask.axes() == 3 && given.extents() == std::array<index_t, 3>{batches, queries, keys};
  if (!lengths && !of_keys && !of_pairs)
    fail("key_padding_mask", "expected shape [", batches, "], [", 3 * batches + 2, "], ",
         list_text(std::array{batches, keys}), " or ", list_text(std::array{batches, queries, keys}), ", got ",
         list_text(given.extents()));
  index_t const rows = of_pairs ? queries : 1;
  tensor_view<A, 4> const added(memory.allocate<A>(batches * rows * keys + 1), {batches, 1, rows, keys});
  for (index_t b = 0; b < batches; ++b)
    for (index_t row = 0; row < rows; ++row)
      for (index_t key = 0; key < keys; ++key) {
        bool const kept = lengths ? key < given(0, 0, b) : (of_keys ? given(0, b, key) : given(b, row, key)) > 0;
        added(b, 0, row, key) = kept ? A(0) : filter;
      }
  return added;
}

template <Element T>
struct query_key_value {
  tensor_view<T const, 4> query, key, value;
};

/// One of the tensors that are packed side by side within a head: [batch, token, head, which, dimension].
template <class T>
tensor_view<T, 4> unpacked(tensor_view<T, 5> const& packed, index_t which) {
  return {packed.data() + which * packed.stride(3),
          {packed.extent(0), packed.extent(2), packed.extent(1), packed.extent(4)},
          {packed.stride(0), packed.stride(2), packed.stride(1), 1}};
}

template <class T>
void check_packed(char const* argument, tensor_view<T, 5> const& packed, index_t parts, index_t heads) {
  check_view(argument, packed);
  if (packed.extent(2) != heads || packed.extent(3) != parts)
    fail(argument, "expected shape [batch, token, ", heads, ", ", parts, ", dimension], got ",
         list_text(packed.extents()));
}

template <Element T, class E>
void run_multi_head_attention(query_key_value<T> const& given, tensor_view<T, 4> const& output,
                              onnx::microsoft::multi_head_attention_attributes const& attributes,
                              onnx::microsoft::multi_head_attention_inputs<T> const& inputs,
                              onnx::microsoft::multi_head_attention_outputs<T> const& outputs, E& executor) {
  using A = accumulation_t<T>;
  bool const causal = flag("unidirectional", attributes.unidirectional);
  check_finite("mask_filter_value", attributes.mask_filter_value);
  check_both_or_none("past_key", inputs.past_key, "past_value", inputs.past_value);
  check_both_or_none("present_key", outputs.present_key, "present_value", outputs.present_value);
  auto [query, key, value] = given;
  index_t const heads = query.extent(1), dimension = query.extent(3);
  check_extent("key", "heads", key.extent(1), heads, "query");
  check_extent("value", "heads", value.extent(1), heads, "query");
  if (causal) check_extent("key", "tokens", key.extent(2), query.extent(2), "query, where unidirectional");

  scratch memory;
  if (inputs.bias) {
    auto const& bias = inputs.bias.view();
    check_shape("bias", bias, {heads * (2 * dimension + value.extent(3))}, "num_heads * (d + d + dv)");
    check_extent("key", "head dimension", key.extent(3), dimension, "query");
    query = plus_row<T>(memory, query, bias.data(), executor);
    key = plus_row<T>(memory, key, bias.data() + heads * dimension, executor);
    value = plus_row<T>(memory, value, bias.data() + 2 * heads * dimension, executor);
  }
  token_state<T> const keys(memory, "past_key", "present_key", key, inputs.past_key, outputs.present_key);
  token_state<T> const values(memory, "past_value", "present_value", value, inputs.past_value, outputs.present_value);

  softmax_call<T> call;
  call.query = query;
  call.key = keys.tokens();
  call.value = values.tokens();
  call.output = output;
  call.scale = attributes.scale != 0 ? attributes.scale : usual_scale(dimension);
  call.seen = {-1, causal ? 0 : -1, offset(keys.past.extent(2))};
  call.bias = inputs.attention_bias;
  check_attention_bias<T>(call.bias, {query.extent(0), heads, query.extent(2), call.key.extent(2)});
  if (outputs.qk) {
    auto const& asked = outputs.qk.view();
    check_shape("qk", asked, {query.extent(0), heads, query.extent(2), call.key.extent(2)}, "batch, head, query, key");
    check_output_view("qk", asked);
    call.logits = accumulating(memory, asked);
  }
  named_layout const written[] = {
      {"present_key", keys.written}, {"present_value", values.written}, {"output", output}, {"qk", outputs.qk.view()}};
  auto const bias = raise<4>(inputs.bias.view());
  auto const mask = raise<4>(inputs.key_padding_mask.view());
  named_layout const all[] = {{"query", given.query},     {"key", given.key},
                              {"value", given.value},     {"bias", bias},
                              {"key_padding_mask", mask}, {"attention_bias", inputs.attention_bias.view()},
                              {"past_key", keys.apart},   {"past_value", values.apart}};
  check_apart(written, all);
  auto const prepare = [&] {
    keys.join(executor);
    values.join(executor);
  };
  if (inputs.key_padding_mask)
    run_softmax_call(
        call, executor, prepare,
        attend::bias<A>(padding_bias<A>(memory, inputs.key_padding_mask, static_cast<A>(attributes.mask_filter_value),
                                        query.extent(0), query.extent(2), call.key.extent(2))));
  else
    run_softmax_call(call, executor, prepare);
  if (outputs.qk) copy_rows<T>(call.logits, outputs.qk.view(), executor);
}

}  // namespace detail

namespace onnx::microsoft {

/// Multi-head attention of ONNX Runtime: key and value have three axes, or four with heads as the second; optional
/// inputs and outputs are given by name, in the shapes that their comments say. All tensors but the mask have one
/// element type: float, double, half or bfloat16.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an attribute do not fit.
///
///     onnx::microsoft::multi_head_attention(query_rows, key_rows, value_rows, output_rows, {.num_heads = 8},
///                                           {.attention_bias = pairs});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, Executor E = serial>
void multi_head_attention(Query const& query, Key const& key, Value const& value, Output&& output,
                          multi_head_attention_attributes const& attributes,
                          multi_head_attention_inputs<element_of_t<Output>> const& inputs = {},
                          multi_head_attention_outputs<element_of_t<Output>> const& outputs = {}, E&& executor = {}) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  index_t const heads = attributes.num_heads;
  if (rank_of<Key const> == 4 && inputs.bias) fail("bias", "expected none with a key of four axes, got one");
  attend::detail::query_key_value<T> const tensors{
      attend::detail::with_heads("query", view_of(query), "num_heads", heads),
      attend::detail::with_heads("key", view_of(key), "num_heads", heads),
      attend::detail::with_heads("value", view_of(value), "num_heads", heads)};
  tensor_view<T, 4> const o = attend::detail::with_heads("output", view_of(output), "num_heads", heads);
  attend::detail::run_multi_head_attention(tensors, o, attributes, inputs, outputs, executor);
}

/// The same with key and value packed into one tensor, [batch, kv, num_heads, 2, d].
template <TensorArgument Query, TensorArgument KeyValue, TensorArgument Output, Executor E = serial>
void multi_head_attention(Query const& query, KeyValue const& key_value, Output&& output,
                          multi_head_attention_attributes const& attributes,
                          multi_head_attention_inputs<element_of_t<Output>> const& inputs = {},
                          multi_head_attention_outputs<element_of_t<Output>> const& outputs = {}, E&& executor = {}) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  index_t const heads = attributes.num_heads;
  auto const packed = view_of(key_value);
  attend::detail::check_packed("key", packed, 2, heads);
  attend::detail::query_key_value<T> const tensors{
      attend::detail::with_heads("query", view_of(query), "num_heads", heads), attend::detail::unpacked(packed, 0),
      attend::detail::unpacked(packed, 1)};
  tensor_view<T, 4> const o = attend::detail::with_heads("output", view_of(output), "num_heads", heads);
  attend::detail::run_multi_head_attention(tensors, o, attributes, inputs, outputs, executor);
}

/// The same with all three packed into one tensor, [batch, token, num_heads, 3, d].
template <TensorArgument Packed, TensorArgument Output, Executor E = serial>
void multi_head_attention(Packed const& query_key_value, Output&& output,
                          multi_head_attention_attributes const& attributes,
                          multi_head_attention_inputs<element_of_t<Output>> const& inputs = {},
                          multi_head_attention_outputs<element_of_t<Output>> const& outputs = {}, E&& executor = {}) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  auto const packed = view_of(query_key_value);
  attend::detail::check_packed("query", packed, 3, attributes.num_heads);
  attend::detail::query_key_value<T> const tensors{
      attend::detail::unpacked(packed, 0), attend::detail::unpacked(packed, 1), attend::detail::unpacked(packed, 2)};
  tensor_view<T, 4> const o = attend::detail::with_heads("output", view_of(output), "num_heads", attributes.num_heads);
  attend::detail::run_multi_head_attention(tensors, o, attributes, inputs, outputs, executor);
}

}  // namespace onnx::microsoft
}  // namespace attend::inline ATTEND_TARGET
