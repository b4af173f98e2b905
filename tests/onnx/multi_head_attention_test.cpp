// SPDX-License-Identifier: BSD-3-Clause
// com.microsoft's MultiHeadAttention: what ONNX Runtime gives, packed inputs, other element types, and wrong input.
#include <attend/onnx/multi_head_attention.hpp>

#include "support/expect_error.hpp"
#include "support/onnx_nodes.hpp"
#include "support/random_tensor.hpp"

namespace attend {
namespace {

using onnx::microsoft::multi_head_attention;
using attributes_type = onnx::microsoft::multi_head_attention_attributes;

template <class T, int KeyRank>
void expect_case(test::onnx_node const& node) {
  auto const q = node.read<T, 3>("query");
  auto const k = node.read<T, KeyRank>("key"), v = node.read<T, KeyRank>("value");
  auto o = node.room<T, 3>("output");
  attributes_type const attributes{.mask_filter_value = node.attribute("mask_filter_value", -10000.0),
                                   .num_heads = node.attribute("num_heads", index_t{0}),
                                   .scale = node.attribute("scale", 0.0),
                                   .unidirectional = node.attribute("unidirectional", index_t{0})};
  std::vector<test::node_tensor<T, 4>> kept;
  kept.reserve(8);
  onnx::microsoft::multi_head_attention_inputs<T> inputs;
  onnx::microsoft::multi_head_attention_outputs<T> outputs;
  std::optional<test::node_tensor<T, 1>> bias;
  std::vector<test::node_tensor<std::int32_t, 1>> lengths;
  std::vector<test::node_tensor<std::int32_t, 2>> of_keys;
  std::vector<test::node_tensor<std::int32_t, 3>> of_pairs;
  if (node.has("bias")) inputs.bias = bias.emplace(node.read<T, 1>("bias")).view();
  if (node.has("key_padding_mask")) {
    char const* const mask = "key_padding_mask";
    if (node.axes(mask) == 1)
      inputs.key_padding_mask = lengths.emplace_back(node.read<std::int32_t, 1>(mask)).view();
    else if (node.axes(mask) == 2)
      inputs.key_padding_mask = of_keys.emplace_back(node.read<std::int32_t, 2>(mask)).view();
    else
      inputs.key_padding_mask = of_pairs.emplace_back(node.read<std::int32_t, 3>(mask)).view();
  }
  auto const given = [&](char const* name, onnx::optional_tensor<T const, 4>& input) {
    if (node.has(name)) input = kept.emplace_back(node.read<T, 4>(name)).view();
  };
  given("attention_bias", inputs.attention_bias);
  given("past_key", inputs.past_key);
  given("past_value", inputs.past_value);
  std::map<std::string, test::node_tensor<T, 4>> written;
  auto const asked = [&](char const* name, onnx::optional_tensor<T, 4>& output) {
    if (node.has(name)) output = written.emplace(name, node.room<T, 4>(name)).first->second.view();
  };
  asked("present_key", outputs.present_key);
  asked("present_value", outputs.present_value);
  asked("qk", outputs.qk);
  multi_head_attention(q.view(), k.view(), v.view(), o.view(), attributes, inputs, outputs);
  node.expect("output", o);
  for (auto const& [name, tensor] : written) node.expect(name, tensor);
}

TEST(OnnxMultiHeadAttention, GivesWhatOnnxRuntimeGives) {
  int const cases =
      test::for_nodes("onnxruntime.safetensors", "MultiHeadAttention", "query", "F32", [](test::onnx_node const& node) {
        node.axes("key") == 4 ? expect_case<float, 4>(node) : expect_case<float, 3>(node);
      });
  EXPECT_EQ(cases, 24);
}

// Packed tensors are read where they lie: the same numbers, the same bits.
template <class T>
void expect_packed() {
  index_t const batch = 2, tokens = 5, heads = 3, dimension = 8;
  auto const packed = test::normal<T, 5>({batch, tokens, heads, 3, dimension}, 1);
  auto const key_value = test::normal<T, 5>({batch, tokens, heads, 2, dimension}, 2);
  auto const bias = test::normal<T, 1>({3 * heads * dimension}, 3);
  auto const apart = [&](auto const& from, index_t which) {
    auto result = test::filled<T, 3>({batch, tokens, heads * dimension}, T(0));
    for (index_t b = 0; b < batch; ++b)
      for (index_t t = 0; t < tokens; ++t)
        for (index_t h = 0; h < heads; ++h)
          for (index_t c = 0; c < dimension; ++c)
            result.view()(b, t, h * dimension + c) = from.view()(b, t, h, which, c);
    return result;
  };
  auto const q = apart(packed, 0), k = apart(packed, 1), v = apart(packed, 2);
  auto expected = test::filled<T, 3>({batch, tokens, heads * dimension}, T(7)), got = expected;
  attributes_type const attributes{.num_heads = heads, .unidirectional = 1};
  multi_head_attention(q.view(), k.view(), v.view(), expected.view(), attributes, {.bias = bias.view()});
  multi_head_attention(packed.view(), got.view(), attributes, {.bias = bias.view()}, {}, threads{2});
  for (std::size_t i = 0; i < got.elements.size(); ++i) EXPECT_EQ(got.elements[i], expected.elements[i]);
  auto const k2 = apart(key_value, 0), v2 = apart(key_value, 1);
  multi_head_attention(q.view(), k2.view(), v2.view(), expected.view(), attributes);
  multi_head_attention(q.view(), key_value.view(), got.view(), attributes);
  for (std::size_t i = 0; i < got.elements.size(); ++i) EXPECT_EQ(got.elements[i], expected.elements[i]);
}

TEST(OnnxMultiHeadAttention, TakesPackedTensors) { expect_packed<float>(); }
TEST(OnnxMultiHeadAttention, TakesPackedTensorsOfBfloat16) { expect_packed<bfloat16>(); }

/// Two batches, three heads of 8, five queries, six keys.
class OnnxMultiHeadAttentionErrors : public testing::Test {
 protected:
  test::tensor<float, 3> const q = test::normal<float, 3>({2, 5, 24}, 1), k = test::normal<float, 3>({2, 6, 24}, 2);
  test::tensor<float, 3> o = test::filled<float, 3>({2, 5, 24}, 7);

  template <class Call>
  void expect_error(std::string const& message, Call&& call) {
    test::expect_error(message, call);
    EXPECT_TRUE(std::all_of(o.elements.begin(), o.elements.end(), [](float x) { return x == 7; })) << message;
  }
  void refuse(std::string const& message, attributes_type const& attributes,
              onnx::microsoft::multi_head_attention_inputs<float> const& inputs = {},
              onnx::microsoft::multi_head_attention_outputs<float> const& outputs = {}) {
    expect_error(message,
                 [&] { multi_head_attention(q.view(), k.view(), k.view(), o.view(), attributes, inputs, outputs); });
  }
};

TEST_F(OnnxMultiHeadAttentionErrors, OfAttributes) {
  refuse("num_heads: expected at least 1 with three axes of query, got 0", {});
  refuse("query: expected a last extent that is a multiple of 5 (num_heads), got 24", {.num_heads = 5});
  refuse("unidirectional: expected 0 or 1, got 3", {.num_heads = 3, .unidirectional = 3});
  refuse("key: expected tokens 5 (as query, where unidirectional), got 6", {.num_heads = 3, .unidirectional = 1});
  refuse("mask_filter_value: expected a finite number, got -inf", {.mask_filter_value = -INFINITY, .num_heads = 3});
  refuse("scale: expected a finite number, got inf", {.num_heads = 3, .scale = 1e300});
}

TEST_F(OnnxMultiHeadAttentionErrors, OfInputs) {
  attributes_type const good{.num_heads = 3};
  auto const bias = test::normal<float, 1>({48}, 1);
  refuse("bias: expected shape [72] (num_heads * (d + d + dv)), got [48]", good, {.bias = bias.view()});
  std::vector<std::int32_t> const mask(100, 1);
  std::string const shapes = "key_padding_mask: expected shape [2], [8], [2, 6] or [2, 5, 6], got ";
  using mask_view = tensor_view<std::int32_t const, 2>;
  refuse(shapes + "[1, 1, 3]", good, {.key_padding_mask = tensor_view<std::int32_t const, 1>(mask.data(), {3})});
  refuse(shapes + "[1, 2, 5]", good, {.key_padding_mask = mask_view(mask.data(), {2, 5})});
  refuse(shapes + "[2, 6, 6]", good, {.key_padding_mask = tensor_view<std::int32_t const, 3>(mask.data(), {2, 6, 6})});
  auto const added = test::normal<float, 4>({1, 3, 5, 5}, 1);
  refuse("attention_bias: expected shape [2, 3, 5, 6] with 1 for a batch or head that is shared, got [1, 2, 5, 6]",
         good, {.attention_bias = tensor_view<float const, 4>(added.elements.data(), {1, 2, 5, 6})});
  auto const past = test::normal<float, 4>({2, 3, 4, 8}, 1);
  refuse("past_key: expected it together with past_value, got one of them", good, {.past_key = past.view()});
  auto const other = test::normal<float, 4>({2, 2, 4, 8}, 1);
  refuse("past_key: expected shape [2, 3, 4, 8] (batch, head, past, dimension), got [2, 2, 4, 8]", good,
         {.past_key = other.view(), .past_value = past.view()});
  auto const four = test::normal<float, 4>({2, 3, 6, 8}, 1);
  auto const row = test::normal<float, 1>({72}, 1);
  expect_error("bias: expected none with a key of four axes, got one",
               [&] { multi_head_attention(q.view(), four.view(), four.view(), o.view(), good, {.bias = row.view()}); });
  auto const packed = test::normal<float, 5>({2, 5, 3, 2, 8}, 1);
  expect_error("query: expected shape [batch, token, 3, 3, dimension], got [2, 5, 3, 2, 8]",
               [&] { multi_head_attention(packed.view(), o.view(), good); });
  expect_error("key: expected shape [batch, token, 4, 2, dimension], got [2, 5, 3, 2, 8]",
               [&] { multi_head_attention(q.view(), packed.view(), o.view(), {.num_heads = 4}); });
}

TEST_F(OnnxMultiHeadAttentionErrors, OfOutputs) {
  attributes_type const good{.num_heads = 3};
  auto present = test::filled<float, 4>({2, 3, 6, 8}, 7), pairs = test::filled<float, 4>({2, 3, 5, 5}, 7);
  refuse("present_key: expected it together with present_value, got one of them", good, {},
         {.present_key = present.view()});
  refuse("present_value: expected memory of its own, got memory that overlaps present_key", good, {},
         {.present_key = present.view(), .present_value = present.view()});
  refuse("qk: expected shape [2, 3, 5, 6] (batch, head, query, key), got [2, 3, 5, 5]", good, {}, {.qk = pairs.view()});
  expect_error("num_heads: expected 0 or 2 (the heads of output), got 3", [&] {
    multi_head_attention(q.view(), k.view(), k.view(), tensor_view<float, 4>(o.elements.data(), {2, 2, 5, 8}),
                         {.num_heads = 3});
  });
}

}  // namespace
}  // namespace attend
