// SPDX-License-Identifier: BSD-3-Clause
// Wrong input to ONNX's Attention: what is refused, with which words, and that nothing is written then.
#include <attend/onnx/attention.hpp>

#include "support/boolean_tensor.hpp"
#include "support/expect_error.hpp"

namespace attend {
namespace {

using inputs = onnx::attention_inputs<float>;
using outputs = onnx::attention_outputs<float>;

/// Two batches, four query heads on two key heads, three queries, five keys, a past of two.
class OnnxAttentionErrors : public testing::Test {
 protected:
  test::tensor<float, 4> const q = test::normal<float, 4>({2, 4, 3, 8}, 1), k = test::normal<float, 4>({2, 2, 5, 8}, 2),
                               v = test::normal<float, 4>({2, 2, 5, 6}, 3),
                               past_k = test::normal<float, 4>({2, 2, 2, 8}, 4),
                               past_v = test::normal<float, 4>({2, 2, 2, 6}, 5);
  test::tensor<float, 4> y = test::filled<float, 4>({2, 4, 3, 6}, 7),
                         present_k = test::filled<float, 4>({2, 2, 7, 8}, 7),
                         present_v = test::filled<float, 4>({2, 2, 7, 6}, 7),
                         pairs = test::filled<float, 4>({2, 4, 3, 5}, 7);

  template <class Call>
  void expect_error(std::string const& message, Call&& call) {
    test::expect_error(message, call);
    for (auto const* tensor : {&y, &present_k, &present_v, &pairs})
      EXPECT_TRUE(std::all_of(tensor->elements.begin(), tensor->elements.end(), [](float x) { return x == 7; }))
          << message;
  }
  void refuse(std::string const& message, onnx::attention_attributes const& attributes, inputs const& in = {},
              outputs const& out = {}) {
    expect_error(message, [&] { onnx::attention(q.view(), k.view(), v.view(), y.view(), attributes, in, out); });
  }
};

TEST_F(OnnxAttentionErrors, OfAttributes) {
  refuse("is_causal: expected 0 or 1, got 2", {.is_causal = 2});
  refuse("left_window_size: expected at least -1, got -2", {.left_window_size = -2});
  refuse("right_window_size: expected at least -1, got -5", {.right_window_size = -5});
  refuse("qk_matmul_output_mode: expected 0 to 3, got 4", {.qk_matmul_output_mode = 4});
  refuse("softcap: expected at least 0, got -1", {.softcap = -1});
  refuse("softcap: expected a finite number, got nan", {.softcap = std::nan("")});
  refuse("scale: expected a finite number, got inf", {.scale = 1e300});
  refuse("softmax_precision: expected 1 (float), 10 (half), 11 (double) or 16 (bfloat16), got 2",
         {.softmax_precision = 2});
  refuse("q_num_heads: expected 0 or 4 (the heads of Q), got 2", {.q_num_heads = 2});
  refuse("kv_num_heads: expected 0 or 2 (the heads of K), got 4", {.kv_num_heads = 4});
}

TEST_F(OnnxAttentionErrors, OfThreeAxes) {
  auto const refuse_packed = [&](std::string const& message, onnx::attention_attributes const& attributes) {
    tensor_view<float const, 3> const packed_q(q.elements.data(), {2, 3, 32}), packed_k(k.elements.data(), {2, 5, 16}),
        packed_v(v.elements.data(), {2, 5, 12});
    tensor_view<float, 3> const packed_y(y.elements.data(), {2, 3, 24});
    expect_error(message, [&] { onnx::attention(packed_q, packed_k, packed_v, packed_y, attributes); });
  };
  refuse_packed("q_num_heads: expected at least 1 with three axes of Q, got 0", {.kv_num_heads = 2});
  refuse_packed("kv_num_heads: expected at least 1 with three axes of K, got 0", {.q_num_heads = 4});
  refuse_packed("Q: expected a last extent that is a multiple of 5 (q_num_heads), got 32",
                {.kv_num_heads = 2, .q_num_heads = 5});
  refuse_packed("key: expected head dimension 16 (as query), got 8", {.kv_num_heads = 2, .q_num_heads = 2});
}

TEST_F(OnnxAttentionErrors, OfMasks) {
  test::boolean_tensor<4> const longer({2, 4, 3, 6}, true);
  refuse(
      "boolean_mask: expected shape [2, 4, 3, 5], or 2 heads (the key's), with 1 for an axis that is shared and at "
      "most "
      "as many keys, got [2, 4, 3, 6]",
      {}, {.attn_mask = longer.view()});
  auto const of_three_heads = test::normal<float, 3>({3, 3, 5}, 1);
  refuse(
      "bias: expected shape [2, 4, 3, 5], or 2 heads (the key's), with 1 for an axis that is shared and at most as "
      "many "
      "keys, got [1, 3, 3, 5]",
      {}, {.attn_mask = of_three_heads.view()});
}

TEST_F(OnnxAttentionErrors, OfPastAndPresent) {
  refuse("past_key: expected it together with past_value, got one of them", {}, {.past_key = past_k.view()});
  refuse("present_key: expected it together with present_value, got one of them", {}, {},
         {.present_value = present_v.view()});
  refuse("past_value: expected shape [2, 2, 2, 6] (batch, head, past, dimension), got [2, 2, 2, 8]", {},
         {.past_key = past_k.view(), .past_value = past_k.view()});
  refuse("present_key: expected shape [2, 2, 5, 8] (batch, head, past + new tokens, dimension), got [2, 2, 7, 8]", {},
         {}, {.present_key = present_k.view(), .present_value = present_v.view()});
  auto const longer = test::normal<float, 4>({2, 2, 3, 6}, 5);
  refuse("value: expected tokens 7 (as key), got 8", {}, {.past_key = past_k.view(), .past_value = longer.view()});
  tensor_view<float, 4> const over_y(y.elements.data(), {2, 2, 7, 6}, {0, 0, 6, 1});
  refuse("present_value: expected distinct elements, got stride 0 on axis 0 of extent 2", {},
         {.past_key = past_k.view(), .past_value = past_v.view()},
         {.present_key = present_k.view(), .present_value = over_y});
}

TEST_F(OnnxAttentionErrors, OfMemory) {
  std::vector<float> memory(1000, 7);
  tensor_view<float, 4> const shared_k(memory.data(), {2, 2, 7, 8}), shared_v(memory.data() + 100, {2, 2, 7, 6}),
      shared_pairs(memory.data(), {2, 4, 3, 5}), shared_y(memory.data() + 50, {2, 4, 3, 6});
  tensor_view<float const, 4> const shared_past(memory.data() + 8, {2, 2, 2, 8});
  auto const refuse_memory = [&](std::string const& message, auto const& output, inputs const& in, outputs const& out) {
    expect_error(message, [&] { onnx::attention(q.view(), k.view(), v.view(), output, {}, in, out); });
    EXPECT_TRUE(std::all_of(memory.begin(), memory.end(), [](float x) { return x == 7; }));
  };
  inputs const past{.past_key = past_k.view(), .past_value = past_v.view()};
  refuse_memory("present_value: expected memory of its own, got memory that overlaps present_key", y.view(), past,
                {.present_key = shared_k, .present_value = shared_v});
  refuse_memory("present_key: expected memory of its own, got memory that overlaps past_key", y.view(),
                {.past_key = shared_past, .past_value = past_v.view()},
                {.present_key = shared_k, .present_value = present_v.view()});
  refuse_memory("Y: expected memory of its own, got memory that overlaps present_key", shared_y, past,
                {.present_key = shared_k, .present_value = present_v.view()});
  refuse_memory("qk_matmul_output: expected memory of its own, got memory that overlaps Y", shared_y, {},
                {.qk_matmul_output = shared_pairs});
}

TEST_F(OnnxAttentionErrors, OfLengths) {
  std::vector<std::int64_t> const few{5}, good{5, 3}, long_one{5, 6}, negative{-1, 2};
  refuse("nonpad_kv_seqlen: expected lengths 2 (as Q), got 1", {}, {.nonpad_kv_seqlen = few});
  refuse("nonpad_kv_seqlen: expected lengths from 0 to 5, got 6 at 1", {}, {.nonpad_kv_seqlen = long_one});
  refuse("nonpad_kv_seqlen: expected lengths from 0 to 5, got -1 at 0", {}, {.nonpad_kv_seqlen = negative});
  refuse("nonpad_kv_seqlen: expected no past and no present beside it, got one", {},
         {.past_key = past_k.view(), .past_value = past_v.view(), .nonpad_kv_seqlen = good});
}

TEST_F(OnnxAttentionErrors, OfOutputs) {
  refuse("qk_matmul_output: expected shape [2, 4, 3, 5] (batch, query head, query, key), got [2, 4, 3, 6]", {}, {},
         {.qk_matmul_output = y.view()});
  expect_error("output: expected head dimension 6 (as value), got 8", [&] {
    onnx::attention(q.view(), k.view(), v.view(), tensor_view<float, 4>(y.elements.data(), {2, 4, 3, 8}));
  });
  expect_error("key: expected batch 2 (as query), got 1",
               [&] { onnx::attention(q.view(), attend::detail::part(k.view(), 0, 0, 1), v.view(), y.view()); });
}

}  // namespace
}  // namespace attend
