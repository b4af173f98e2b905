// SPDX-License-Identifier: BSD-3-Clause
// ONNX's FlexAttention: the published node tests, functions of the weight, and wrong input.
#include <attend/onnx/flex_attention.hpp>

#include "support/expect_error.hpp"
#include "support/onnx_nodes.hpp"
#include "support/random_tensor.hpp"

namespace attend {
using namespace extend;

namespace {

/// Runs a case with the modifiers that its graphs' names say.
template <class T>
void expect_case(test::onnx_node const& node) {
  using A = accumulation_t<T>;
  auto const q = node.read<T, 4>("Q"), k = node.read<T, 4>("K"), v = node.read<T, 4>("V");
  auto y = node.room<T, 4>("Y");
  onnx::flex_attention_attributes const attributes{.scale = node.attribute<double>("scale"),
                                                   .softmax_precision = node.attribute<index_t>("softmax_precision")};
  auto const run = [&](auto const&... modifiers) {
    onnx::flex_attention(q.view(), k.view(), v.view(), y.view(), attributes, modifiers...);
  };
  auto const& given = node.modifiers();
  auto const number = [&](char const* modifier, char const* name) {
    return given.at(modifier).at("numbers").at(name).template get<A>();
  };
  if (given.empty()) {
    run();
  } else if constexpr (std::same_as<T, float>) {
    std::string const graph = given.begin()->at("graph");
    if (graph == "score_mod_bias")
      run([b = number("score_mod", "bias")](auto const& s, auto const&) { return s + b; });
    else if (graph == "score_mod_soft_cap")
      run([c = number("score_mod", "cap")](auto const& s, auto const&) { return tanh(s / c) * c; });
    else if (graph == "score_mod_causal_mask")
      run([](auto const& s, auto const& at) {
        return select(at.query_index() >= at.key_position, s, std::remove_cvref_t<decltype(s)>(-infinity<A>));
      });
    else if (graph == "score_mod_relative_positional")
      run([](auto const& s, auto const& at) { return s + (at.query_index() - at.key_position); });
    else if (graph == "prob_mod_scale")
      run(onnx::unmodified{}, [c = number("prob_mod", "scale")](auto const& p, auto const&) { return p * c; });
    else
      ADD_FAILURE() << "no such graph: " << graph;
  } else {
    ADD_FAILURE() << "modifiers with another type";
  }
  node.expect("Y", y);
}

TEST(OnnxFlexAttention, PublishedNodeTestsPass) {
  EXPECT_EQ(test::for_nodes("onnx_nodes.safetensors", "FlexAttention", "Q", "F32", expect_case<float>), 9);
  EXPECT_EQ(test::for_nodes("onnx_nodes.safetensors", "FlexAttention", "Q", "F16", expect_case<half>), 1);
  EXPECT_EQ(test::for_nodes("onnx_nodes.safetensors", "FlexAttention", "Q", "F64", expect_case<double>), 1);
}

// A function of the weight, of where it stands, and of keys that are hidden: in many tiles, with threads, in 16 bits.
template <class T>
void expect_modified(index_t queries, index_t keys) {
  index_t const batch = 2, heads = 4, groups = 2, dimension = 8;
  auto const q = test::normal<T, 4>({batch, heads, queries, dimension}, 1),
             k = test::normal<T, 4>({batch, groups, keys, dimension}, 2),
             v = test::normal<T, 4>({batch, groups, keys, 5}, 3);
  auto y = test::filled<T, 4>({batch, heads, queries, 5}, T(7));
  onnx::flex_attention(
      q.view(), k.view(), v.view(), y.view(), {.scale = 0.7},
      [](auto const& s, auto const& at) {
        return select(at.key_position > at.query_index() + 3, std::remove_cvref_t<decltype(s)>(-INFINITY), s);
      },
      [](auto const& p, auto const& at) { return p * p - 0.001f * at.head() - 0.002f; }, threads{2});
  std::vector<double> expected;
  double largest = 1;
  for (index_t b = 0; b < batch; ++b)
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < queries; ++i) {
        std::vector<double> weight(static_cast<std::size_t>(keys), 0);
        double total = 0;
        for (index_t j = 0; j < std::min(keys, i + 4); ++j) {
          double s = 0;
          for (index_t c = 0; c < dimension; ++c)
            s += static_cast<double>(q.view()(b, h, i, c)) * static_cast<double>(k.view()(b, h / 2, j, c));
          total += weight[static_cast<std::size_t>(j)] = std::exp(0.7 * s);
        }
        for (index_t c = 0; c < 5; ++c) {
          double sum = 0, magnitude = 0;
          for (index_t j = 0; j < keys; ++j) {
            double const p = weight[static_cast<std::size_t>(j)] / total;
            double const changed = p * p - 0.001 * static_cast<double>(h) - 0.002;
            sum += changed * static_cast<double>(v.view()(b, h / 2, j, c));
            magnitude += std::abs(changed * static_cast<double>(v.view()(b, h / 2, j, c)));
          }
          expected.push_back(sum);
          largest = std::max(largest, magnitude);
        }
      }
  EXPECT_TRUE(test::near(y.elements, expected, test::tolerance<T>(largest)));
}

TEST(OnnxFlexAttention, ModifiesWeights) {
  expect_modified<float>(37, 141);
  expect_modified<float>(1, 300);
}
TEST(OnnxFlexAttention, ModifiesWeightsOfBfloat16) { expect_modified<bfloat16>(37, 141); }

TEST(OnnxFlexAttention, RefusesWhatDoesNotFit) {
  auto const q = test::normal<float, 4>({2, 4, 3, 8}, 1), k = test::normal<float, 4>({2, 2, 5, 8}, 2),
             v = test::normal<float, 4>({2, 2, 5, 6}, 3), one_head = test::normal<float, 4>({2, 1, 5, 6}, 3);
  auto y = test::filled<float, 4>({2, 4, 3, 6}, 7);
  auto const square = [](auto const& p, auto const&) { return p * p; };
  auto const refuse = [&](std::string const& message, onnx::flex_attention_attributes const& attributes,
                          auto const& key, auto const& value, auto const& output) {
    test::expect_error(message, [&] { onnx::flex_attention(q.view(), key, value, output, attributes); });
    test::expect_error(
        message, [&] { onnx::flex_attention(q.view(), key, value, output, attributes, onnx::unmodified{}, square); });
    EXPECT_TRUE(std::all_of(y.elements.begin(), y.elements.end(), [](float x) { return x == 7; })) << message;
  };
  refuse("softmax_precision: expected 1 (float), 10 (half), 11 (double) or 16 (bfloat16), got 7",
         {.softmax_precision = 7}, k.view(), v.view(), y.view());
  refuse("scale: expected a finite number, got nan", {.scale = std::nan("")}, k.view(), v.view(), y.view());
  refuse("V: expected heads 2 (as K), got 1", {}, k.view(), one_head.view(), y.view());
  refuse("key: expected head dimension 8 (as query), got 6", {}, v.view(), v.view(), y.view());
  refuse("output: expected tokens 3 (as query), got 2", {}, k.view(), v.view(),
         attend::detail::part(y.view(), 2, 0, 2));
  std::vector<float> memory(200, 7);
  tensor_view<float, 4> const over(memory.data(), {2, 4, 3, 6});
  refuse("output: expected memory of its own, got memory that overlaps key", {},
         tensor_view<float const, 4>(memory.data() + 20, {2, 2, 5, 8}), v.view(), over);
}

}  // namespace
}  // namespace attend
