// SPDX-License-Identifier: BSD-3-Clause
// Systems of image windows that are settings of neighborhood attention: each against its own formula.
#include <attend/attention/image/neighborhood_attention.hpp>
#include <attend/reference/neighborhood.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace grids;

namespace {

constexpr index_t height = 12, width = 16, window = 4, tokens = height * width, heads = 4;
constexpr std::array<index_t, 2> extents{height, width};

/// Heads [first, first + count) of a tensor.
template <class T>
tensor_view<T, 4> heads_of(tensor_view<T, 4> const& tensor, index_t first, index_t count) {
  auto shape = tensor.extents();
  shape[1] = count;
  return {tensor.data() + first * tensor.stride(1), shape, tensor.strides()};
}

/// Whether two tokens are in one window of an image that was rolled by -shift, and were so before.
bool in_one_window(index_t query, index_t key, index_t shift) {
  auto const same = [&](index_t a, index_t b, index_t extent) {
    index_t const rolled_a = (a + extent - shift) % extent, rolled_b = (b + extent - shift) % extent;
    // Of the last window the part behind the roll came from the other border.
    auto const came_round = [&](index_t rolled) { return rolled >= extent - shift; };
    return rolled_a / window == rolled_b / window && came_round(rolled_a) == came_round(rolled_b);
  };
  return same(query / width, key / width, height) && same(query % width, key % width, width);
}

double bias_of(test::tensor<float, 3> const& table, index_t head, index_t query, index_t key) {
  return table.view()(head, key / width - query / width + window - 1, key % width - query % width + window - 1);
}

TEST(StyleSwin, HalfOfTheHeadsHaveShiftedWindows) {
  // Both halves read the same layer; each has a table of its own, and their outputs stand side by side.
  index_t const half = heads / 2, shift = window / 2;
  auto const in = test::random_inputs<float>(
      {.batches = 2, .query_heads = heads, .key_heads = heads, .value_heads = heads, .queries = tokens, .keys = tokens},
      3);
  auto const regular = test::normal<float, 3>({half, 2 * window - 1, 2 * window - 1}, 11),
             shifted = test::normal<float, 3>({half, 2 * window - 1, 2 * window - 1}, 12);
  auto out = test::outputs<float>{test::filled<float, 4>({2, heads, tokens, 8}, 7.f), {}, {}};
  auto const attend_in = [&](index_t first, neighborhood_axis const& axis, test::tensor<float, 3> const& table) {
    neighborhood_attention<2>(heads_of(in.query.view(), first, half), heads_of(in.key.view(), first, half),
                              heads_of(in.value.view(), first, half), heads_of(out.output.view(), first, half), extents,
                              {axis, axis}, relative_bias(table.view()));
  };
  attend_in(0, swin_window(window), regular);
  attend_in(half, swin_window(window, shift), shifted);

  reference::options with;
  with.visible = [=](reference::place const& at) {
    return in_one_window(at.query, at.key, at.head < half ? 0 : shift);
  };
  with.scores.push_back([&](double s, reference::place const& at) {
    return s + (at.head < half ? bias_of(regular, at.head, at.query, at.key)
                               : bias_of(shifted, at.head - half, at.query, at.key));
  });
  EXPECT_TRUE(test::agrees(in, out, with));
}

TEST(AttSwinUNet, ADecoderReadsItsEncoderInWindows) {
  // The skip path: queries of the decoder, keys and values of the encoder, in windows with and without a shift.
  for (index_t shift : {index_t{0}, window / 2}) {
    auto const in = test::random_inputs<float>(
        {.query_heads = heads, .key_heads = heads, .value_heads = heads, .queries = tokens, .keys = tokens}, 4);
    auto const table = test::normal<float, 3>({heads, 2 * window - 1, 2 * window - 1}, 13);
    auto out = test::outputs<float>{test::filled<float, 4>({1, heads, tokens, 8}, 7.f), {}, {}};
    neighborhood_axis const axis = swin_window(window, shift);
    neighborhood_attention<2>(in.query.view(), in.key.view(), in.value.view(), out.output.view(), extents, {axis, axis},
                              relative_bias(table.view()));
    reference::options with;
    with.visible = [=](reference::place const& at) { return in_one_window(at.query, at.key, shift); };
    with.scores.push_back(
        [&](double s, reference::place const& at) { return s + bias_of(table, at.head, at.query, at.key); });
    EXPECT_TRUE(test::agrees(in, out, with)) << "shift " << shift;
  }
}

TEST(AttSwinUNet, TheEncodersWeightsAreAddedByASecondCall) {
  // (A_decoder + A_encoder) V is the sum of both attentions to the decoder's values.
  auto const decoder = test::random_inputs<float>(
      {.query_heads = heads, .key_heads = heads, .value_heads = heads, .queries = tokens, .keys = tokens}, 5);
  auto encoder = test::random_inputs<float>(decoder.size, 6);
  encoder.value = decoder.value;
  neighborhood_axis const axis = swin_window(window);
  auto sum = test::filled<float, 4>({1, heads, tokens, 8}, 0.f);
  for (test::inputs<float> const* in : std::array<test::inputs<float> const*, 2>{&decoder, &encoder}) {
    auto out = test::filled<float, 4>({1, heads, tokens, 8}, 7.f);
    neighborhood_attention<2>(in->query.view(), in->key.view(), in->value.view(), out.view(), extents, {axis, axis});
    for (std::size_t i = 0; i < sum.elements.size(); ++i) sum.elements[i] += out.elements[i];
  }

  reference::options with;
  with.visible = [](reference::place const& at) { return in_one_window(at.query, at.key, 0); };
  auto const weights_of = [&](test::inputs<float> const& in) {
    return reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with).weights;
  };
  auto const own = weights_of(decoder), reused = weights_of(encoder);
  std::vector<double> expected(sum.elements.size());
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < tokens; ++i)
      for (index_t j = 0; j < tokens; ++j)
        for (index_t c = 0; c < 8; ++c) {
          auto const pair = static_cast<std::size_t>((h * tokens + i) * tokens + j);
          expected[static_cast<std::size_t>((h * tokens + i) * 8 + c)] +=
              (own[pair] + reused[pair]) * decoder.value.view()(0, h, j, c);
        }
  EXPECT_TRUE(
      test::near(sum.elements, expected, 2 * test::tolerance<float>(test::largest_magnitude(decoder.value.elements))));
}

}  // namespace
}  // namespace attend
