// SPDX-License-Identifier: BSD-3-Clause
// ONNX's LinearAttention: the published node tests, states of the tensors' own type and of float, and wrong input.
#include <attend/onnx/linear_attention.hpp>

#include "support/expect_error.hpp"
#include "support/onnx_nodes.hpp"
#include "support/random_tensor.hpp"

namespace attend {
namespace {

/// With states of T and of S: the operator says that either may be.
template <class T, class S>
void expect_case(test::onnx_node const& node) {
  auto const q = node.read<T, 3>("query"), k = node.read<T, 3>("key"), v = node.read<T, 3>("value");
  auto o = node.room<T, 3>("output");
  auto state = node.room<S, 4>("present_state");
  std::vector<test::node_tensor<T, 3>> kept;
  kept.reserve(2);
  onnx::linear_attention_inputs<T> inputs;
  if (node.has("past_state")) {
    // It is updated where it stands.
    state = node.read<S, 4>("past_state");
    inputs.past_state = state.view();
  }
  if (node.has("decay")) inputs.decay = kept.emplace_back(node.read<T, 3>("decay")).view();
  if (node.has("beta")) inputs.beta = kept.emplace_back(node.read<T, 3>("beta")).view();
  std::string const rule = node.attribute<std::string>("update_rule", "gated_delta");
  onnx::linear_attention(q.view(), k.view(), v.view(), o.view(),
                         {.chunk_size = node.attribute("chunk_size", index_t{64}),
                          .kv_num_heads = node.attribute("kv_num_heads", index_t{0}),
                          .q_num_heads = node.attribute("q_num_heads", index_t{0}),
                          .scale = node.attribute("scale", 0.0),
                          .update_rule = rule},
                         inputs, {.present_state = state.view()});
  node.expect("output", o);
  node.expect("present_state", state);
}

TEST(OnnxLinearAttention, PublishedNodeTestsPass) {
  EXPECT_EQ(test::for_nodes("onnx_nodes.safetensors", "LinearAttention", "query", "F32", expect_case<float, float>),
            13);
  EXPECT_EQ(test::for_nodes("onnx_nodes.safetensors", "LinearAttention", "query", "F16", expect_case<half, half>), 1);
}

TEST(OnnxLinearAttention, StatesMayBeOfFloat) {
  EXPECT_EQ(test::for_nodes("onnx_nodes.safetensors", "LinearAttention", "query", "F16", expect_case<half, float>), 1);
}

class OnnxLinearAttentionErrors : public testing::Test {
 protected:
  test::tensor<float, 3> const q = test::normal<float, 3>({2, 5, 32}, 1), k = test::normal<float, 3>({2, 5, 16}, 2),
                               v = test::normal<float, 3>({2, 5, 12}, 3), decay = test::filled<float, 3>({2, 5, 2}, -1),
                               beta = test::filled<float, 3>({2, 5, 1}, 0.5f);
  test::tensor<float, 3> o = test::filled<float, 3>({2, 5, 24}, 7);
  test::tensor<float, 4> state = test::filled<float, 4>({2, 2, 8, 6}, 7);

  void refuse(std::string const& message, onnx::linear_attention_attributes const& attributes,
              onnx::linear_attention_inputs<float> const& inputs) {
    test::expect_error(message, [&] {
      onnx::linear_attention(q.view(), k.view(), v.view(), o.view(), attributes, inputs,
                             {.present_state = state.view()});
    });
    EXPECT_TRUE(std::all_of(o.elements.begin(), o.elements.end(), [](float x) { return x == 7; })) << message;
    EXPECT_TRUE(std::all_of(state.elements.begin(), state.elements.end(), [](float x) { return x == 7; })) << message;
  }
};

TEST_F(OnnxLinearAttentionErrors, AreRefused) {
  onnx::linear_attention_attributes const good{.kv_num_heads = 2, .q_num_heads = 4};
  auto const with = [&](auto change) {
    auto changed = good;
    change(changed);
    return changed;
  };
  onnx::linear_attention_inputs<float> const both{.decay = decay.view(), .beta = beta.view()};
  refuse("update_rule: expected linear, gated, delta or gated_delta, got gate",
         with([](auto& a) { a.update_rule = "gate"; }), both);
  refuse("decay: expected a tensor with update_rule gated_delta", good, {.beta = beta.view()});
  refuse("beta: expected a tensor with update_rule gated_delta", good, {.decay = decay.view()});
  refuse("decay: expected none with update_rule delta", with([](auto& a) { a.update_rule = "delta"; }), both);
  refuse("beta: expected none with update_rule gated", with([](auto& a) { a.update_rule = "gated"; }), both);
  refuse("chunk_size: expected at least 1, got 0", with([](auto& a) { a.chunk_size = 0; }), both);
  refuse("q_num_heads: expected at least 1 with three axes of query, got 0", with([](auto& a) { a.q_num_heads = 0; }),
         both);
  refuse("value: expected a last extent that is a multiple of 8 (kv_num_heads), got 12",
         with([](auto& a) { a.kv_num_heads = 8; }), both);
  refuse("key: expected a head count that divides 2 (query), got 4",
         with([](auto& a) { a.kv_num_heads = 4, a.q_num_heads = 2; }), both);
  refuse("scale: expected a finite number, got inf", with([](auto& a) { a.scale = 1e300; }), both);
  auto const wide = test::filled<float, 3>({2, 5, 4}, 0.5f), late = test::filled<float, 3>({2, 4, 2}, 0.5f);
  refuse("decay: expected a last extent of 2 (kv_num_heads) or 16 (kv_num_heads * d), got 4", good,
         {.decay = wide.view(), .beta = beta.view()});
  refuse("beta: expected a last extent of 2 (kv_num_heads) or 1, got 4", good,
         {.decay = decay.view(), .beta = wide.view()});
  refuse("beta: expected shape [2, 5, 2] (batch, token, numbers), got [2, 4, 2]", good,
         {.decay = decay.view(), .beta = late.view()});
  auto const past = test::normal<float, 4>({2, 2, 6, 8}, 1);
  refuse("past_state: expected shape [2, 2, 8, 6] (batch, key head, key dimension, value dimension), got [2, 2, 6, 8]",
         good, {.past_state = past.view(), .decay = decay.view(), .beta = beta.view()});
  tensor_view<float, 4> const over_o(o.elements.data(), {2, 2, 8, 6}, {48, 24, 3, 1});
  test::expect_error("present_state: expected memory of its own, got memory that overlaps output", [&] {
    onnx::linear_attention(q.view(), k.view(), v.view(), o.view(), good, both, {.present_state = over_o});
  });
}

}  // namespace
}  // namespace attend
