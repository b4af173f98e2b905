// SPDX-License-Identifier: BSD-3-Clause
// Combiner: its three forms against the definition; dense where nothing is summarized.
#include <attend/attention/sparse_prefill/combiner_attention.hpp>
#include <attend/reference/combiner_attention.hpp>

#include "support/chosen_inputs.hpp"
#include "support/selected.hpp"

namespace attend {
using namespace options;
using namespace systems;

namespace {

using test::sizes;

sizes of_tokens(index_t tokens) {
  return {.batches = 2,
          .query_heads = 4,
          .key_heads = 2,
          .value_heads = 1,
          .queries = tokens,
          .keys = tokens,
          .key_dimension = 20,
          .value_dimension = 13};
}

template <class T, class Call>
testing::AssertionResult follows(test::inputs<T> const& in, Call const& call,
                                 std::function<reference::combiner_view(index_t)> const& seen) {
  auto const got = test::attend_by(in, call);
  auto const expected = reference::combiner_attention<T>(in.query.view(), in.key.view(), in.value.view(), seen);
  // An expectation over a region is an average of values with weights of its own: their errors add.
  double const allowed = 2 * test::tolerance<T>(test::largest_magnitude(in.value.elements));
  if (auto result = test::near(got.output.elements, expected.output, allowed); !result) return result;
  return test::near(got.log_sum_exp.elements, expected.log_sum_exp, test::tolerance<accumulation_t<T>>(10));
}
template <class T, class Call>
testing::AssertionResult follows(sizes const& s, unsigned seed, Call const& call,
                                 std::function<reference::combiner_view(index_t)> const& seen) {
  return follows(test::random_inputs<T>(s, seed, 0.7), call, seen);
}

template <bool Causal, class T>
testing::AssertionResult fixed(index_t tokens, index_t segment, unsigned seed) {
  return follows<T>(
      of_tokens(tokens), seed,
      [=](auto q, auto k, auto v, auto o, auto const&... options) {
        if constexpr (Causal)
          combiner_fixed_attention(q, k, v, o, segment, causal{}, options...);
        else
          combiner_fixed_attention(q, k, v, o, segment, options...);
      },
      [=](index_t i) { return reference::combiner_fixed(i, tokens, segment, Causal); });
}

TEST(CombinerAttention, FixedFollowsItsDefinition) {
  EXPECT_TRUE((fixed<true, float>(83, 9, 1)));
  EXPECT_TRUE((fixed<false, float>(83, 9, 2)));
  EXPECT_TRUE((fixed<true, float>(40, 1, 3)));
  EXPECT_TRUE((fixed<false, float>(40, 100, 4)));
  EXPECT_TRUE((fixed<true, float>(0, 4, 5)));
  EXPECT_TRUE((fixed<true, double>(50, 8, 6)));
  EXPECT_TRUE((fixed<false, bfloat16>(50, 8, 7)));
}

TEST(CombinerAttention, FixedCutsLongSegments) {
  sizes const s{.queries = 450, .keys = 450};
  EXPECT_TRUE((follows<float>(
      s, 8,
      [](auto q, auto k, auto v, auto o, auto const&... options) {
        combiner_fixed_attention(q, k, v, o, 400, causal{}, options...);
      },
      [](index_t i) { return reference::combiner_fixed(i, 450, 400, true); })));
}

TEST(CombinerAttention, LogsparseFollowsItsDefinition) {
  for (index_t tokens : {0, 1, 2, 7, 64, 83})
    EXPECT_TRUE((follows<float>(
        of_tokens(tokens), 9,
        [](auto q, auto k, auto v, auto o, auto const&... options) {
          combiner_logsparse_attention(q, k, v, o, options...);
        },
        [](index_t i) { return reference::combiner_logsparse(i); })))
        << tokens;
}

TEST(CombinerAttention, AxialFollowsItsDefinition) {
  for (index_t columns : {1, 8, 12, 96})
    EXPECT_TRUE((follows<float>(
        of_tokens(96), 10,
        [=](auto q, auto k, auto v, auto o, auto const&... options) {
          combiner_axial_attention(q, k, v, o, columns, options...);
        },
        [=](index_t i) { return reference::combiner_axial(i, columns); })))
        << columns;
}

TEST(CombinerAttention, ShowsAValueToLaterTokens) {
  auto in = test::random_inputs<float>(of_tokens(50), 20, 0.7);
  for (index_t b : {0, 1})
    for (index_t c = 0; c < 13; ++c) in.value.view()(b, 0, 37, c) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(follows(
      in,
      [](auto q, auto k, auto v, auto o, auto const&... options) {
        combiner_fixed_attention(q, k, v, o, 8, causal{}, options...);
      },
      [](index_t i) { return reference::combiner_fixed(i, 50, 8, true); }));
  EXPECT_TRUE(follows(
      in,
      [](auto q, auto k, auto v, auto o, auto const&... options) {
        combiner_logsparse_attention(q, k, v, o, options...);
      },
      [](index_t i) { return reference::combiner_logsparse(i); }));
  EXPECT_TRUE(follows(
      in,
      [](auto q, auto k, auto v, auto o, auto const&... options) {
        combiner_axial_attention(q, k, v, o, 10, options...);
      },
      [](index_t i) { return reference::combiner_axial(i, 10); }));
}

TEST(CombinerAttention, IsDenseWithOneSegment) {
  auto const in = test::random_inputs<float>(of_tokens(70), 11);
  auto got = test::filled<float, 4>({2, 4, 70, 13}, 7), dense = got;
  combiner_fixed_attention(in.query.view(), in.key.view(), in.value.view(), got.view(), 70, causal{});
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), dense.view(), causal{});
  EXPECT_TRUE(test::near(got.elements, dense.elements, test::tolerance<float>(5)));
}

TEST(CombinerAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 6, .keys = 9}, 12);
  auto output = test::filled<float, 4>({1, 1, 6, 8}, 7);
  auto const q = in.query.view();
  test::expect_error("key: expected tokens 6 (as query), got 9",
                     [&] { combiner_fixed_attention(q, in.key.view(), in.value.view(), output.view(), 3); });
  test::expect_error("segment: expected 1 to 536870911 tokens, got 0",
                     [&] { combiner_fixed_attention(q, q, q, output.view(), 0); });
  test::expect_error("columns: expected a divisor of 6 (tokens of query), got 4",
                     [&] { combiner_axial_attention(q, q, q, output.view(), 4); });
  test::expect_error("causal: expected the last query at the last key (offset 0), got offset -2",
                     [&] { combiner_fixed_attention(q, q, q, output.view(), 3, causal{offset(-2)}); });
  test::expect_scale_error([&](scale const& factor) { combiner_fixed_attention(q, q, q, output.view(), 3, factor); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
