// SPDX-License-Identifier: BSD-3-Clause
// Rotary positions inside softmax attention: the same as rotating queries and keys beforehand.
#include <attend/attention/softmax/rotary_embedding.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/position/rotary.hpp>
#include <attend/policy/slots.hpp>

#include "support/argument_errors.hpp"

namespace attend {
using namespace options;
using namespace linear;
using namespace extend;

namespace {

template <class T>
test::inputs<T> rotated(test::inputs<T> in, auto const& settings, token_positions const& query,
                        token_positions const& key) {
  rotary_embedding(in.query.view(), settings, in.query.view(), query);
  rotary_embedding(in.key.view(), settings, in.key.view(), key);
  return in;
}

TEST(RotaryAttention, IsRotatingBeforehandToTheBit) {
  for (auto const layout : {rotary_layout::half_split, rotary_layout::interleaved})
    for (test::sizes const& s : {test::sizes{.batches = 2,
                                             .query_heads = 6,
                                             .key_heads = 3,
                                             .value_heads = 2,
                                             .queries = 70,
                                             .keys = 133,
                                             .key_dimension = 20},
                                 test::sizes{.query_heads = 20, .queries = 1, .keys = 1, .key_dimension = 48},
                                 test::sizes{.query_heads = 4, .queries = 9, .keys = 4, .key_dimension = 14},
                                 test::sizes{.query_heads = 8, .queries = 30, .keys = 6000, .key_dimension = 16}}) {
      auto const in = test::random_inputs<float>(s, 1);
      rotary const settings(rotary_frequencies(14, 500), layout);
      auto const fused = test::attend_to(in, causal{}, settings);
      auto const beforehand = test::attend_to(rotated(in, settings, s.keys - s.queries, 0), causal{});
      EXPECT_TRUE(test::same_bits(fused.output.elements, beforehand.output.elements)) << s.keys;
      EXPECT_TRUE(test::same_bits(fused.log_sum_exp.elements, beforehand.log_sum_exp.elements)) << s.keys;
    }
}

// Without rotary positions, so few queries are another engine's work.
TEST(RotaryAttention, IsRotatingBeforehandForOneQuery) {
  auto const in = test::random_inputs<float>(
      {.query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 1, .keys = 3000, .key_dimension = 32}, 1);
  rotary const settings(rotary_frequencies(32), rotary_layout::half_split);
  EXPECT_TRUE(test::near(test::attend_to(in, settings).output.elements,
                         test::attend_to(rotated(in, settings, 2999, 0)).output.elements,
                         2 * test::tolerance<float>(5)));
}

TEST(RotaryAttention, RoundsLessThanRotatingBeforehandInSixteenBits) {
  auto const in = test::random_inputs<bfloat16>(
      {.query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 50, .keys = 90, .key_dimension = 32}, 2);
  rotary const settings(rotary_frequencies(32), rotary_layout::half_split);
  // The definition, of the numbers in double.
  test::inputs<double> wide{in.size, {in.query.extents, {}}, {in.key.extents, {}}, {in.value.extents, {}}};
  wide.query.elements.assign(in.query.elements.begin(), in.query.elements.end());
  wide.key.elements.assign(in.key.elements.begin(), in.key.elements.end());
  wide.value.elements.assign(in.value.elements.begin(), in.value.elements.end());
  auto const exact = rotated(wide, settings, 40, 0);
  auto expected = reference::softmax_attention<double>(exact.query.view(), exact.key.view(), exact.value.view());
  auto const got = test::attend_to(in, settings);
  EXPECT_TRUE(test::near(got.output.elements, expected.output,
                         test::tolerance<bfloat16>(test::largest_magnitude(in.value.elements))));
}

TEST(RotaryAttention, PositionsMayBeGiven) {
  auto const in =
      test::random_inputs<float>({.batches = 2, .query_heads = 5, .queries = 5, .keys = 12, .key_dimension = 12}, 3);
  std::vector<std::int32_t> const query{7, 9, 11, 400, 5, 0, 0, 1, 1, 2},
      key{0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, -3};
  tensor_view<std::int32_t const, 2> const of_queries(query.data(), {2, 5});
  rotary const settings(rotary_frequencies(12), rotary_layout::interleaved);
  auto const fused = test::attend_to(in, settings.at(of_queries, key));
  auto const beforehand = test::attend_to(rotated(in, settings, of_queries, key));
  EXPECT_TRUE(test::same_bits(fused.output.elements, beforehand.output.elements));
}

TEST(RotaryAttention, PackedSequencesHavePositionsOfTheirOwn) {
  auto const in = test::random_inputs<float>({.query_heads = 3, .queries = 30, .keys = 40, .key_dimension = 10}, 4);
  std::vector<std::int64_t> const query_offsets{0, 10, 10, 30}, key_offsets{0, 15, 16, 40};
  rotary const settings(rotary_frequencies(10), rotary_layout::half_split);
  auto const fused = test::attend_to(in, settings, ragged(query_offsets, key_offsets));
  std::vector<std::int64_t> query(30), key(40);
  for (std::size_t s = 0; s < 3; ++s) {
    std::int64_t const keys = key_offsets[s + 1] - key_offsets[s], queries = query_offsets[s + 1] - query_offsets[s];
    for (std::int64_t i = 0; i < queries; ++i)
      query[static_cast<std::size_t>(query_offsets[s] + i)] = i + keys - queries;
    for (std::int64_t j = 0; j < keys; ++j) key[static_cast<std::size_t>(key_offsets[s] + j)] = j;
  }
  auto const beforehand = test::attend_to(rotated(in, settings, query, key), ragged(query_offsets, key_offsets));
  EXPECT_TRUE(test::same_bits(fused.output.elements, beforehand.output.elements));
}

TEST(RotaryAttention, SlotsHaveNoPosition) {
  // So many queries are the tiled engine's, with and without an option that rotates keys.
  auto const in =
      test::random_inputs<float>({.query_heads = 2, .key_heads = 2, .value_heads = 2, .queries = 40, .keys = 52}, 5);
  auto const slot_key = test::normal<float, 4>({1, 2, 3, 8}, 6), slot_value = test::normal<float, 4>({1, 2, 3, 8}, 7);
  rotary const settings(rotary_frequencies(8), rotary_layout::half_split);
  prefix_key_values const slots(slot_key.view(), slot_value.view());
  EXPECT_TRUE(test::same_bits(test::attend_to(in, settings, slots).output.elements,
                              test::attend_to(rotated(in, settings, 12, 0), slots).output.elements));
}

TEST(RotaryAttention, HiddenKeysHaveNoInfluenceAsNaN) {
  auto in = test::random_inputs<float>({.queries = 4, .keys = 30, .key_dimension = 16}, 6);
  rotary const settings(rotary_frequencies(16), rotary_layout::half_split);
  auto const before = test::attend_to(in, settings, causal{top_left});
  std::fill(in.key.elements.begin() + 4 * 16, in.key.elements.end(), std::numeric_limits<float>::quiet_NaN());
  std::fill(in.value.elements.begin() + 4 * 8, in.value.elements.end(), infinity<float>);
  EXPECT_TRUE(test::near(test::attend_to(in, settings, causal{top_left}).output.elements, before.output.elements,
                         test::tolerance<float>(5)));
}

using RotaryAttentionErrors = test::argument_errors;

TEST_F(RotaryAttentionErrors, AreToldBeforeAnythingIsWritten) {
  expect_option_error("rotary: expected at most 8 channels (the head dimension), got 10",
                      rotary(rotary_frequencies(10), rotary_layout::half_split));
  rotary const settings(rotary_frequencies(8), rotary_layout::half_split);
  std::vector<std::int64_t> const five(5), nine(9);
  expect_option_error("rotary (queries): expected tokens 5 (as the tensor), got 9", settings.at(nine, nine));
  expect_option_error("rotary (keys): expected tokens 9 (as the tensor), got 5", settings.at(five, five));
  auto const table = test::normal<float, 2>({8, 4}, 1);
  expect_option_error("rotary_table (cosine): expected positions from 0 to 7, got 8",
                      rotary(rotary_table(table.view(), table.view()), rotary_layout::half_split));
}

}  // namespace
}  // namespace attend
