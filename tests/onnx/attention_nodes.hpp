// SPDX-License-Identifier: BSD-3-Clause
// The published node tests of ONNX's Attention, with tensors of one element type.
#pragma once

#include <attend/onnx/attention.hpp>

#include "support/onnx_nodes.hpp"

namespace attend::test {

/// Runs a case with elements of T, as it is, and expects all of its outputs.
template <class T, int Rank>
void expect_attention(onnx_node const& node) {
  auto const q = node.read<T, Rank>("Q"), k = node.read<T, Rank>("K"), v = node.read<T, Rank>("V");
  auto y = node.room<T, Rank>("Y");
  onnx::attention_attributes const attributes{
      .is_causal = node.attribute("is_causal", index_t{0}),
      .kv_num_heads = node.attribute("kv_num_heads", index_t{0}),
      .left_window_size = node.attribute("left_window_size", index_t{-1}),
      .q_num_heads = node.attribute("q_num_heads", index_t{0}),
      .qk_matmul_output_mode = node.attribute("qk_matmul_output_mode", index_t{0}),
      .right_window_size = node.attribute("right_window_size", index_t{-1}),
      .scale = node.attribute<double>("scale"),
      .softcap = node.attribute("softcap", 0.0),
      .softmax_precision = node.attribute<index_t>("softmax_precision")};
  std::vector<node_tensor<T, 4>> kept;
  kept.reserve(8);
  onnx::attention_inputs<T> inputs;
  onnx::attention_outputs<T> outputs;
  std::optional<node_tensor<bool, 4>> boolean;
  if (node.has("attn_mask")) {
    if (node.type("attn_mask") == "BOOL")
      inputs.attn_mask = boolean.emplace(node.read<bool, 4>("attn_mask")).view();
    else
      inputs.attn_mask = kept.emplace_back(node.read<T, 4>("attn_mask")).view();
  }
  if (node.has("past_key")) {
    inputs.past_key = kept.emplace_back(node.read<T, 4>("past_key")).view();
    inputs.past_value = kept.emplace_back(node.read<T, 4>("past_value")).view();
  }
  std::optional<node_tensor<std::int64_t, 1>> lengths;
  if (node.has("nonpad_kv_seqlen"))
    inputs.nonpad_kv_seqlen = lengths.emplace(node.read<std::int64_t, 1>("nonpad_kv_seqlen")).view();
  std::map<std::string, node_tensor<T, 4>> written;
  auto const asked = [&](char const* name, onnx::optional_tensor<T, 4>& output) {
    if (node.has(name)) output = written.emplace(name, node.room<T, 4>(name)).first->second.view();
  };
  asked("present_key", outputs.present_key);
  asked("present_value", outputs.present_value);
  asked("qk_matmul_output", outputs.qk_matmul_output);

  onnx::attention(q.view(), k.view(), v.view(), y.view(), attributes, inputs, outputs);
  node.expect("Y", y);
  for (auto const& [name, tensor] : written) node.expect(name, tensor);
}

/// All cases whose tensors are of that type in the file, with elements of T. Says how many.
template <class T>
int expect_attention_nodes(std::string const& type) {
  return for_nodes("onnx_nodes.safetensors", "Attention", "Q", type, [](onnx_node const& node) {
    node.axes("Q") == 3 ? expect_attention<T, 3>(node) : expect_attention<T, 4>(node);
  });
}

}  // namespace attend::test
