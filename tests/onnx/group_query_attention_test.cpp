// SPDX-License-Identifier: BSD-3-Clause
// com.microsoft's GroupQueryAttention: what ONNX Runtime gives, caches that are updated in place, and wrong input.
#include <attend/onnx/group_query_attention.hpp>

#include "support/expect_error.hpp"
#include "support/onnx_nodes.hpp"
#include "support/random_tensor.hpp"

namespace attend {
namespace {

using onnx::microsoft::group_query_attention;
using attributes_type = onnx::microsoft::group_query_attention_attributes;
using inputs_type = onnx::microsoft::group_query_attention_inputs<float>;
using outputs_type = onnx::microsoft::group_query_attention_outputs<float>;

/// Runs a case. In place: the past stands in the present's memory, as far as the past reaches.
void expect_case(test::onnx_node const& node, bool in_place) {
  auto const q = node.read<float, 3>("query");
  auto o = node.room<float, 3>("output");
  attributes_type const attributes{.causal = node.attribute("causal", index_t{1}),
                                   .do_rotary = node.attribute("do_rotary", index_t{0}),
                                   .kv_num_heads = node.attribute("kv_num_heads", index_t{0}),
                                   .local_window_size = node.attribute("local_window_size", index_t{-1}),
                                   .num_heads = node.attribute("num_heads", index_t{0}),
                                   .qk_output = node.attribute("qk_output", index_t{0}),
                                   .rotary_interleaved = node.attribute("rotary_interleaved", index_t{0}),
                                   .scale = node.attribute("scale", 0.0),
                                   .smooth_softmax = node.attribute("smooth_softmax", index_t{-1}),
                                   .softcap = node.attribute("softcap", 0.0)};
  auto const lengths = node.read<std::int32_t, 1>("seqlens_k"),
             total = node.read<std::int32_t, 1>("total_sequence_length");
  std::vector<test::node_tensor<float, 4>> kept;
  std::vector<test::node_tensor<float, 2>> angles;
  kept.reserve(8);
  angles.reserve(2);
  inputs_type inputs{.seqlens_k = lengths.view(), .total_sequence_length = total.view()(0)};
  outputs_type outputs;
  auto const given = [&](char const* name, onnx::optional_tensor<float const, 4>& input) {
    if (node.has(name)) input = kept.emplace_back(node.read<float, 4>(name)).view();
  };
  given("past_key", inputs.past_key);
  given("past_value", inputs.past_value);
  given("attention_bias", inputs.attention_bias);
  if (node.has("cos_cache")) {
    inputs.cos_cache = angles.emplace_back(node.read<float, 2>("cos_cache")).view();
    inputs.sin_cache = angles.emplace_back(node.read<float, 2>("sin_cache")).view();
  }
  std::optional<test::node_tensor<std::int64_t, 2>> positions;
  std::optional<test::node_tensor<float, 1>> sinks;
  std::optional<test::node_tensor<std::int32_t, 1>> valid;
  if (node.has("position_ids"))
    inputs.position_ids = positions.emplace(node.read<std::int64_t, 2>("position_ids")).view();
  if (node.has("head_sink")) inputs.head_sink = sinks.emplace(node.read<float, 1>("head_sink")).view();
  if (node.has("query_seqlens"))
    inputs.query_seqlens = valid.emplace(node.read<std::int32_t, 1>("query_seqlens")).view();
  std::map<std::string, test::node_tensor<float, 4>> written;
  auto const asked = [&](char const* name, onnx::optional_tensor<float, 4>& output) {
    if (node.has(name)) output = written.emplace(name, node.room<float, 4>(name)).first->second.view();
  };
  asked("present_key", outputs.present_key);
  asked("present_value", outputs.present_value);
  asked("output_qk", outputs.output_qk);
  if (in_place) {
    auto const begin_there = [](onnx::optional_tensor<float const, 4>& past, tensor_view<float, 4> const& present) {
      auto const here = attend::detail::part(present, 2, 0, past.view().extent(2));
      serial alone;
      attend::detail::copy_rows<float>(past.view(), here, alone);
      past = here;
    };
    begin_there(inputs.past_key, outputs.present_key.view());
    begin_there(inputs.past_value, outputs.present_value.view());
  }
  if (node.has("key")) {
    auto const k = node.read<float, 3>("key"), v = node.read<float, 3>("value");
    group_query_attention(q.view(), k.view(), v.view(), o.view(), attributes, inputs, outputs);
  } else {
    group_query_attention(q.view(), o.view(), attributes, inputs, outputs);
  }
  node.expect("output", o);
  // What stands past the end of a cache that is updated in place stays.
  for (auto const& [name, tensor] : written)
    if (!in_place) node.expect(name, tensor);
}

TEST(OnnxGroupQueryAttention, GivesWhatOnnxRuntimeGives) {
  int const cases = test::for_nodes("onnxruntime.safetensors", "GroupQueryAttention", "query", "F32",
                                    [](test::onnx_node const& node) { expect_case(node, false); });
  EXPECT_EQ(cases, 32);
}

TEST(OnnxGroupQueryAttention, UpdatesACacheInPlace) {
  int in_place = 0;
  test::for_nodes("onnxruntime.safetensors", "GroupQueryAttention", "query", "F32", [&](test::onnx_node const& node) {
    if (node.has("past_key")) expect_case(node, true), ++in_place;
  });
  EXPECT_EQ(in_place, 12);
}

// A prompt token by token is the prompt at once, in 16 bits and with threads too; rows past the end stay.
template <class T>
void expect_steps() {
  index_t const batch = 2, tokens = 6, heads = 4, groups = 2, dimension = 16, capacity = 9;
  auto const q = test::normal<T, 3>({batch, tokens, heads * dimension}, 1),
             k = test::normal<T, 3>({batch, tokens, groups * dimension}, 2),
             v = test::normal<T, 3>({batch, tokens, groups * dimension}, 3);
  auto const cosine = test::normal<T, 2>({20, 8}, 4), sine = test::normal<T, 2>({20, 8}, 5);
  auto whole = test::filled<T, 3>({batch, tokens, heads * dimension}, T(7)), pieces = whole;
  auto keys = test::filled<T, 4>({batch, groups, capacity, dimension}, T(7)), values = keys, whole_keys = keys,
       whole_values = keys;
  attributes_type const attributes{.do_rotary = 1, .kv_num_heads = groups, .local_window_size = 4, .num_heads = heads};
  std::vector<std::int64_t> const all(2, tokens - 1);
  onnx::microsoft::group_query_attention_inputs<T> inputs{
      .seqlens_k = all, .total_sequence_length = tokens, .cos_cache = cosine.view(), .sin_cache = sine.view()};
  group_query_attention(q.view(), k.view(), v.view(), whole.view(), attributes, inputs,
                        {.present_key = whole_keys.view(), .present_value = whole_values.view()}, threads{2});
  for (index_t t = 0; t < tokens; ++t) {
    std::vector<std::int64_t> const length(2, t);
    inputs.seqlens_k = length;
    inputs.total_sequence_length = t + 1;
    inputs.past_key = keys.view();
    inputs.past_value = values.view();
    auto const one = [&](auto const& tensor) { return attend::detail::part(tensor, 1, t, 1); };
    group_query_attention(one(q.view()), one(k.view()), one(v.view()), one(pieces.view()), attributes, inputs,
                          {.present_key = keys.view(), .present_value = values.view()});
  }
  std::vector<double> expected;
  for (T x : whole.elements) expected.push_back(static_cast<double>(x));
  EXPECT_TRUE(test::near(pieces.elements, expected, 2 * test::tolerance<T>(4)));
  for (index_t b = 0; b < batch; ++b)
    for (index_t h = 0; h < groups; ++h)
      for (index_t t = 0; t < capacity; ++t)
        for (index_t c = 0; c < dimension; ++c) {
          EXPECT_EQ(keys.view()(b, h, t, c), t < tokens ? whole_keys.view()(b, h, t, c) : T(7));
          EXPECT_EQ(values.view()(b, h, t, c), t < tokens ? whole_values.view()(b, h, t, c) : T(7));
          if (t >= tokens) {
            EXPECT_EQ(whole_keys.view()(b, h, t, c), T(0));
          }
        }
}

TEST(OnnxGroupQueryAttention, StepsGiveWhatThePromptGives) { expect_steps<float>(); }
TEST(OnnxGroupQueryAttention, StepsGiveWhatThePromptGivesInBfloat16) { expect_steps<bfloat16>(); }

/// Two batches, four query heads on two key heads of 8, three new tokens behind four.
class OnnxGroupQueryAttentionErrors : public testing::Test {
 protected:
  test::tensor<float, 3> const q = test::normal<float, 3>({2, 3, 32}, 1), k = test::normal<float, 3>({2, 3, 16}, 2);
  test::tensor<float, 4> const past = test::normal<float, 4>({2, 2, 4, 8}, 3);
  test::tensor<float, 2> const angles = test::normal<float, 2>({7, 4}, 4);
  test::tensor<float, 3> o = test::filled<float, 3>({2, 3, 32}, 7);
  test::tensor<float, 4> keys = test::filled<float, 4>({2, 2, 7, 8}, 7),
                         values = test::filled<float, 4>({2, 2, 7, 8}, 7),
                         pairs = test::filled<float, 4>({2, 4, 3, 7}, 7);
  std::vector<std::int64_t> const last{6, 5};
  attributes_type const good{.kv_num_heads = 2, .num_heads = 4};

  inputs_type inputs() const {
    return {.seqlens_k = last, .total_sequence_length = 7, .past_key = past.view(), .past_value = past.view()};
  }
  void refuse(std::string const& message, attributes_type const& attributes, inputs_type const& in,
              outputs_type const& asked = {}) {
    outputs_type out = asked;
    if (!out.present_key) out.present_key = keys.view();
    if (!out.present_value) out.present_value = values.view();
    test::expect_error(message,
                       [&] { group_query_attention(q.view(), k.view(), k.view(), o.view(), attributes, in, out); });
    for (auto const* elements : {&o.elements, &keys.elements, &values.elements, &pairs.elements})
      EXPECT_TRUE(std::all_of(elements->begin(), elements->end(), [](float x) { return x == 7; })) << message;
  }
  void refuse_attribute(std::string const& message, auto const& change) {
    auto changed = good;
    change(changed);
    refuse(message, changed, inputs());
  }
  void refuse_input(std::string const& message, auto const& change) {
    auto changed = inputs();
    change(changed);
    refuse(message, good, changed);
  }
};

TEST_F(OnnxGroupQueryAttentionErrors, OfAttributes) {
  refuse_attribute("num_heads: expected at least 1 with three axes of query, got 0", [](auto& a) { a.num_heads = 0; });
  refuse_attribute("key: expected a last extent that is a multiple of 3 (kv_num_heads), got 16",
                   [](auto& a) { a.kv_num_heads = 3; });
  refuse_attribute("causal: expected 0 or 1, got 2", [](auto& a) { a.causal = 2; });
  refuse_attribute("do_rotary: expected 0 or 1, got -1", [](auto& a) { a.do_rotary = -1; });
  refuse_attribute("cos_cache: expected it and sin_cache with do_rotary, got none", [](auto& a) { a.do_rotary = 1; });
  refuse_attribute("local_window_size: expected -1 or at least 1, got 0", [](auto& a) { a.local_window_size = 0; });
  refuse_attribute("local_window_size: expected -1 without causal, got 3",
                   [](auto& a) { a.causal = 0, a.local_window_size = 3; });
  refuse_attribute("qk_output: expected 0, 1 or 2, got 3", [](auto& a) { a.qk_output = 3; });
  refuse_attribute("output_qk: expected it with a qk_output of 1 or 2 and with no other, got qk_output 1",
                   [](auto& a) { a.qk_output = 1; });
  refuse_attribute("softcap: expected at least 0, got -2", [](auto& a) { a.softcap = -2; });
}

TEST_F(OnnxGroupQueryAttentionErrors, OfInputs) {
  std::vector<std::int64_t> const few{6}, late{7, 6}, early{-2, 6}, valid{3, 4}, negative{3, -1};
  refuse_input("seqlens_k: expected lengths 2 (as query), got 1", [&](auto& in) { in.seqlens_k = few; });
  refuse_input("seqlens_k: expected -1 to 6 (total_sequence_length - 1), got 7 at 0",
               [&](auto& in) { in.seqlens_k = late; });
  refuse_input("seqlens_k: expected -1 to 6 (total_sequence_length - 1), got -2 at 0",
               [&](auto& in) { in.seqlens_k = early; });
  refuse_input("query_seqlens: expected 0 to 3, got 4 at 1", [&](auto& in) { in.query_seqlens = valid; });
  refuse_input("query_seqlens: expected 0 to 3, got -1 at 1", [&](auto& in) { in.query_seqlens = negative; });
  refuse_input("past_key: expected it together with past_value, got one of them",
               [&](auto& in) { in.past_value = {}; });
  refuse_input("past_key: expected a capacity of at least 4 (the cached tokens of batch 0), got 0",
               [&](auto& in) { in.past_key = in.past_value = {}; });
  refuse_input("present_key: expected a capacity of at least 8 (total_sequence_length), got 7",
               [&](auto& in) { in.total_sequence_length = 8; });
  auto const sinks = test::normal<float, 1>({3}, 1);
  refuse_input("head_sink: expected shape [4] (num_heads), got [3]", [&](auto& in) { in.head_sink = sinks.view(); });
  auto const added = test::normal<float, 4>({1, 3, 3, 7}, 1);
  refuse_input(
      "attention_bias: expected shape [2, 4, 3, 7] with 1 for a batch or head that is shared, got [1, 3, 3, 7]",
      [&](auto& in) { in.attention_bias = added.view(); });
  auto const rotates = [&](std::string const& message, auto const& change) {
    auto attributes = good;
    attributes.do_rotary = 1;
    auto changed = inputs();
    changed.cos_cache = angles.view();
    changed.sin_cache = angles.view();
    change(changed);
    refuse(message, attributes, changed);
  };
  auto const wide = test::normal<float, 2>({7, 5}, 4), shallow = test::normal<float, 2>({6, 4}, 4);
  rotates("rotary: expected at most 8 channels (the head dimension), got 10",
          [&](auto& in) { in.cos_cache = wide.view(), in.sin_cache = wide.view(); });
  rotates("rotary_table (cosine): expected positions from 0 to 5, got 6",
          [&](auto& in) { in.cos_cache = shallow.view(), in.sin_cache = shallow.view(); });
  std::vector<std::int64_t> const ids{0, 1, 2, 3, 4, 7};
  rotates("rotary_table (cosine): expected positions from 0 to 6, got 7",
          [&](auto& in) { in.position_ids = tensor_view<std::int64_t const, 2>(ids.data(), {2, 3}); });
  rotates("position_ids: expected shape [2, 3] (batch, new token), got [2, 2]",
          [&](auto& in) { in.position_ids = tensor_view<std::int64_t const, 2>(ids.data(), {2, 2}); });
}

TEST_F(OnnxGroupQueryAttentionErrors, OfOutputs) {
  auto attributes = good;
  attributes.qk_output = 2;
  refuse("output_qk: expected shape [2, 4, 3, 7] (batch, query head, new token, key), got [2, 4, 3, 6]", attributes,
         inputs(), {.output_qk = attend::detail::part(pairs.view(), 3, 0, 6)});
  refuse("output_qk: expected it with a qk_output of 1 or 2 and with no other, got qk_output 0", good, inputs(),
         {.output_qk = pairs.view()});
  refuse("present_value: expected memory of its own, got memory that overlaps present_key", good, inputs(),
         {.present_value = keys.view()});
  refuse("present_key: expected shape [2, 2, 3, 8] (batch, head, capacity, dimension), got [2, 4, 3, 7]", good,
         inputs(), {.present_key = pairs.view()});
  test::expect_error("kv_num_heads: expected at least 1, got 0", [&] {
    group_query_attention(q.view(), o.view(), {.num_heads = 4}, {.seqlens_k = last, .total_sequence_length = 7});
  });
}

}  // namespace
}  // namespace attend
