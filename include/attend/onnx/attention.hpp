// SPDX-License-Identifier: BSD-3-Clause
// ONNX's Attention, versions 23 to 25, as one call.
//
//   s = scale * Q.K; softcap * tanh(s / softcap) where it is above 0; + attn_mask; -inf where a mask hides
//   Y = softmax(s) . V
//
//   Q [batch, q_num_heads, q, d], K [batch, kv_num_heads, kv, d], V [batch, kv_num_heads, kv, dv], Y as Q with dv; or
//   all with three axes, [batch, token, heads * d], which is read and written where it lies
//
// Where it differs from softmax_attention:
//   * is_causal and the windows place query i at i + offset. The offset is the number of tokens in past_key; with
//     nonpad_kv_seqlen it is that length less the queries; without both it is 0: top-left, where softmax_attention
//     aligns the last query with the last key.
//   * A mask with fewer columns than keys hides the keys that have none. A boolean mask is true where a key is seen.
//   * qk_matmul_output is written in T: the products (mode 0), after the softcap (1), after the masks (2), the weights
//     (3). Modes 0 and 1 are of all pairs, hidden ones too: a second pass over queries and keys.
//   * softmax_precision is a least precision: precision.hpp says what is computed in which type.
// A query that sees no key gets 0.
//
// Cost: that of softmax_attention; K and V are copied once where there is a past or a present.
#pragma once

#include <optional>

#include "precision.hpp"
#include "softmax_call.hpp"
#include "token_state.hpp"

namespace attend::inline ATTEND_TARGET {
namespace onnx {

/// The operator's attributes, with its names and defaults.
struct attention_attributes {
  index_t is_causal = 0;
  /// Needed with three axes.
  index_t kv_num_heads = 0;
  /// Keys seen before a query's position; -1 is open.
  index_t left_window_size = -1;
  index_t q_num_heads = 0;
  /// What qk_matmul_output holds: 0 to 3.
  index_t qk_matmul_output_mode = 0;
  index_t right_window_size = -1;
  /// 1/sqrt(d) unless given.
  std::optional<double> scale = {};
  /// 0 is none.
  double softcap = 0;
  /// ONNX's number of a type: 1 float, 10 half, 11 double, 16 bfloat16.
  std::optional<index_t> softmax_precision = {};
};

/// The operator's optional inputs.
template <Element T>
struct attention_inputs {
  /// [batch, q_num_heads, q, past + kv] of bool, or of T, which is added; aligned at the right, any axis but the last
  /// may be 1, and the last may be shorter than the keys.
  either_tensor<bool const, T const, 4> attn_mask = {};
  /// [batch, kv_num_heads, past, d] and [..., dv]: both or none.
  optional_tensor<T const, 4> past_key = {}, past_value = {};
  /// [batch]: only the first so many keys of a batch exist. Not with a past or a present.
  std::optional<index_list> nonpad_kv_seqlen = {};
};

/// The operator's optional outputs.
template <Element T>
struct attention_outputs {
  /// [batch, kv_num_heads, past + kv, d] and [..., dv]: both or none. A past may stand in the same memory already: a
  /// cache that grows in place.
  optional_tensor<T, 4> present_key = {}, present_value = {};
  /// [batch, q_num_heads, q, past + kv]
  optional_tensor<T, 4> qk_matmul_output = {};
};

/// Attention of ONNX: optional inputs and outputs are given by name, in the shapes that their comments say. All tensors
/// have one element type: float, double, half or bfloat16.
///
/// Throws argument_error, before anything is written, where shapes, strides, memory or an attribute do not fit.
///
///     onnx::attention(q, k, v, o, {.is_causal = 1, .softcap = 30}, {.attn_mask = seen});
///     onnx::attention(q, k, v, o, {}, {.past_key = k2, .past_value = v2}, {.qk_matmul_output = pairs}, threads{4});
template <TensorArgument Query, TensorArgument Key, TensorArgument Value, TensorArgument Output, Executor E = serial>
void attention(Query const& Q, Key const& K, Value const& V, Output&& Y, attention_attributes const& attributes = {},
               attention_inputs<element_of_t<Output>> const& inputs = {},
               attention_outputs<element_of_t<Output>> const& outputs = {}, E&& executor = {}) {
  arithmetic_mode const arithmetic;
  using T = element_of_t<Output>;
  using A = accumulation_t<T>;
  static_assert(Element<T>, "attend: elements are float, double, Eigen::half or Eigen::bfloat16");
  static_assert(std::same_as<element_of_t<Query const>, T> && std::same_as<element_of_t<Key const>, T> &&
                    std::same_as<element_of_t<Value const>, T>,
                "attend: Q, K, V and Y must have one element type");
  static_assert(rank_of<Query const> == rank_of<Key const> && rank_of<Query const> == rank_of<Value const> &&
                    rank_of<Query const> == rank_of<Output>,
                "attend: Q, K, V and Y must have one number of axes");
  auto const& [is_causal, kv_num_heads, left, q_num_heads, mode, right, scale, softcap, precision] = attributes;
  bool const causal = attend::detail::flag("is_causal", is_causal);
  if (left < -1) fail("left_window_size", "expected at least -1, got ", left);
  if (right < -1) fail("right_window_size", "expected at least -1, got ", right);
  if (mode < 0 || mode > 3) fail("qk_matmul_output_mode", "expected 0 to 3, got ", mode);
  attend::detail::check_softcap(softcap);
  attend::detail::check_precision(precision);
  attend::detail::check_both_or_none("past_key", inputs.past_key, "past_value", inputs.past_value);
  attend::detail::check_both_or_none("present_key", outputs.present_key, "present_value", outputs.present_value);
  if (inputs.nonpad_kv_seqlen && (inputs.past_key || outputs.present_key))
    fail("nonpad_kv_seqlen", "expected no past and no present beside it, got one");

  attend::detail::softmax_call<T> call;
  call.query = attend::detail::with_heads("Q", view_of(Q), "q_num_heads", q_num_heads);
  tensor_view<T const, 4> const key = attend::detail::with_heads("K", view_of(K), "kv_num_heads", kv_num_heads);
  tensor_view<T const, 4> const value = attend::detail::with_heads("V", view_of(V), "kv_num_heads", kv_num_heads);
  call.output = attend::detail::with_heads("Y", view_of(Y), "q_num_heads", q_num_heads);
  scratch memory;
  attend::detail::token_state<T> const keys(memory, "past_key", "present_key", key, inputs.past_key,
                                            outputs.present_key);
  attend::detail::token_state<T> const values(memory, "past_value", "present_value", value, inputs.past_value,
                                              outputs.present_value);
  call.key = keys.tokens();
  call.value = values.tokens();
  call.scale = scale.value_or(attend::detail::usual_scale(call.query.extent(3)));
  call.softcap = softcap;
  call.seen = {left, causal ? (right < 0 ? 0 : std::min<index_t>(right, 0)) : right, offset(keys.past.extent(2))};
  if (inputs.nonpad_kv_seqlen) {
    call.key_lengths = *inputs.nonpad_kv_seqlen;
    attend::detail::check_extent("nonpad_kv_seqlen", "lengths", call.key_lengths.size(), call.query.extent(0), "Q");
    for (index_t b = 0; b < call.key_lengths.size(); ++b)
      if (call.key_lengths[b] < 0 || call.key_lengths[b] > call.key.extent(2))
        fail("nonpad_kv_seqlen", "expected lengths from 0 to ", call.key.extent(2), ", got ", call.key_lengths[b],
             " at ", b);
    call.seen.aligned = bottom_right;
  }
  call.mask = inputs.attn_mask.first;
  call.bias = inputs.attn_mask.second;

  tensor_view<A, 4> pairs;
  if (outputs.qk_matmul_output) {
    tensor_view<T, 4> const asked = outputs.qk_matmul_output.view();
    attend::detail::check_shape("qk_matmul_output", asked,
                                {call.query.extent(0), call.query.extent(1), call.query.extent(2), call.key.extent(2)},
                                "batch, query head, query, key");
    attend::detail::check_output_view("qk_matmul_output", asked);
    pairs = attend::detail::accumulating(memory, asked);
    (mode == 3 ? call.weights : call.logits) = mode >= 2 ? pairs : tensor_view<A, 4>();
  }
  attend::detail::named_layout const written[] = {{"present_key", keys.written},
                                                  {"present_value", values.written},
                                                  {"Y", call.output},
                                                  {"qk_matmul_output", outputs.qk_matmul_output.view()}};
  attend::detail::named_layout const read[] = {{"Q", call.query},
                                               {"K", key},
                                               {"V", value},
                                               {"past_key", keys.apart},
                                               {"past_value", values.apart},
                                               {"attn_mask", call.mask.view()},
                                               {"attn_mask", call.bias.view()}};
  attend::detail::check_apart(written, read);
  attend::detail::run_softmax_call(call, executor, [&] {
    keys.join(executor);
    values.join(executor);
  });
  if (outputs.qk_matmul_output) {
    if (mode < 2 && !pairs.empty())
      attend::detail::run_softmax_call(attend::detail::logits_alone(call, mode == 1 ? softcap : 0, pairs), executor,
                                       [] {});
    attend::detail::copy_rows<T>(pairs, outputs.qk_matmul_output.view(), executor);
  }
}

}  // namespace onnx
}  // namespace attend::inline ATTEND_TARGET
