// SPDX-License-Identifier: BSD-3-Clause
// ONNX's RotaryEmbedding: the published node tests, in place too, and wrong input.
#include <attend/onnx/rotary_embedding.hpp>

#include "support/expect_error.hpp"
#include "support/onnx_nodes.hpp"
#include "support/random_tensor.hpp"

namespace attend {
using namespace options;

namespace {

template <class T, int Rank>
void expect_case(test::onnx_node const& node) {
  auto const x = node.read<T, Rank>("X");
  auto const cosine = node.read<T, 3>("cos_cache"), sine = node.read<T, 3>("sin_cache");
  auto y = node.room<T, Rank>("Y"), in_place = node.read<T, Rank>("X");
  onnx::rotary_embedding_attributes const attributes{
      .interleaved = node.attribute("interleaved", index_t{0}),
      .num_heads = node.attribute("num_heads", index_t{0}),
      .rotary_embedding_dim = node.attribute("rotary_embedding_dim", index_t{0})};
  if (node.has("position_ids")) {
    auto const positions = node.read<std::int64_t, 2>("position_ids");
    onnx::rotary_embedding(x.view(), cosine.view(), sine.view(), y.view(), attributes, positions.view());
    onnx::rotary_embedding(in_place.view(), cosine.view(), sine.view(), in_place.view(), attributes, positions.view());
  } else {
    onnx::rotary_embedding(x.view(), cosine.view(), sine.view(), y.view(), attributes);
    onnx::rotary_embedding(in_place.view(), cosine.view(), sine.view(), in_place.view(), attributes);
  }
  node.expect("Y", y);
  node.expect("Y", in_place);
}

template <class T>
void expect_node(test::onnx_node const& node) {
  node.axes("X") == 3 ? expect_case<T, 3>(node) : expect_case<T, 4>(node);
}

TEST(OnnxRotaryEmbedding, PublishedNodeTestsPass) {
  EXPECT_EQ(test::for_nodes("onnx_nodes.safetensors", "RotaryEmbedding", "X", "F32", expect_node<float>), 8);
}

// The same in the other types: in double as far as ONNX's float is from the exact result; in 16 bits inputs are
// rounded.
TEST(OnnxRotaryEmbedding, FloatNodeTestsPassInDouble) {
  EXPECT_EQ(test::for_nodes("onnx_nodes.safetensors", "RotaryEmbedding", "X", "F32", expect_node<double>), 8);
}

TEST(OnnxRotaryEmbedding, TakesSixteenBits) {
  auto const x = test::normal<half, 3>({2, 5, 24}, 1);
  auto const cosine = test::normal<half, 2>({9, 4}, 2), sine = test::normal<half, 2>({9, 4}, 3);
  std::vector<std::int64_t> const rows{0, 8, 3, 3, 1, 2, 2, 7, 5, 4};
  tensor_view<std::int64_t const, 2> const positions(rows.data(), {2, 5});
  auto y = test::filled<half, 3>({2, 5, 24}, half(7));
  onnx::rotary_embedding(x.view(), cosine.view(), sine.view(), y.view(), {.num_heads = 3}, positions);
  for (index_t b = 0; b < 2; ++b)
    for (index_t t = 0; t < 5; ++t)
      for (index_t h = 0; h < 3; ++h)
        for (index_t i = 0; i < 4; ++i) {
          auto const number = [](half value) { return static_cast<double>(static_cast<float>(value)); };
          double const first = number(x.view()(b, t, 8 * h + i)), second = number(x.view()(b, t, 8 * h + 4 + i));
          double const c = number(cosine.view()(positions(b, t), i)), s = number(sine.view()(positions(b, t), i));
          EXPECT_NEAR(number(y.view()(b, t, 8 * h + i)), first * c - second * s, test::tolerance<half>(8));
          EXPECT_NEAR(number(y.view()(b, t, 8 * h + 4 + i)), second * c + first * s, test::tolerance<half>(8));
        }
}

TEST(OnnxRotaryEmbedding, RefusesWhatDoesNotFit) {
  auto const x = test::normal<float, 3>({2, 5, 24}, 1);
  auto const cosine = test::normal<float, 2>({9, 4}, 2), sine = test::normal<float, 2>({9, 4}, 3),
             narrow = test::normal<float, 2>({9, 3}, 3);
  auto y = test::filled<float, 3>({2, 5, 24}, 7);
  std::vector<std::int64_t> rows(10, 8);
  tensor_view<std::int64_t const, 2> const positions(rows.data(), {2, 5});
  auto const refuse = [&](std::string const& message, onnx::rotary_embedding_attributes const& attributes,
                          auto const& cosines, auto const& sines, std::optional<token_positions> const& where) {
    test::expect_error(
        message, [&] { onnx::rotary_embedding(x.view(), cosines.view(), sines.view(), y.view(), attributes, where); });
    EXPECT_TRUE(std::all_of(y.elements.begin(), y.elements.end(), [](float value) { return value == 7; })) << message;
  };
  refuse("num_heads: expected at least 1 with three axes of X, got 0", {}, cosine, sine, positions);
  refuse("X: expected a last extent that is a multiple of 5 (num_heads), got 24", {.num_heads = 5}, cosine, sine,
         positions);
  refuse("interleaved: expected 0 or 1, got 2", {.interleaved = 2, .num_heads = 3}, cosine, sine, positions);
  refuse("rotary_embedding_dim: expected an even number from 0 to 8 (the head's), got 10",
         {.num_heads = 3, .rotary_embedding_dim = 10}, cosine, sine, positions);
  refuse("rotary_embedding_dim: expected an even number from 0 to 8 (the head's), got 3",
         {.num_heads = 3, .rotary_embedding_dim = 3}, cosine, sine, positions);
  refuse("cos_cache: expected a last extent of 4 (half of the channels that are rotated), got 3", {.num_heads = 3},
         narrow, narrow, positions);
  refuse("rotary_table (sine): expected shape [1, 9, 4] (as cosine), got [1, 9, 3]", {.num_heads = 3}, cosine, narrow,
         positions);
  refuse("cos_cache: expected shape [2, 5, 4] (batch, token, pair, without position_ids), got [1, 9, 4]",
         {.num_heads = 3}, cosine, sine, std::nullopt);
  rows[7] = 9;
  refuse("rotary_table (cosine): expected positions from 0 to 8, got 9", {.num_heads = 3}, cosine, sine, positions);
  rows[7] = -1;
  refuse("rotary_table (cosine): expected positions from 0 to 8, got -1", {.num_heads = 3}, cosine, sine, positions);
  tensor_view<std::int64_t const, 2> const few(rows.data(), {2, 4});
  refuse("positions: expected tokens 5 (as the tensor), got 4", {.num_heads = 3}, cosine, sine, few);
}

}  // namespace
}  // namespace attend
