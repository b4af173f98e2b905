// SPDX-License-Identifier: BSD-3-Clause
// LSG attention: every selection, causal and not, against the definition; plain attention where there are no more than
// two blocks; the mask of the same pairs.
#include <attend/attention/sparse_prefill/lsg_attention.hpp>
#include <attend/policy/mask/patterns.hpp>
#include <attend/reference/lsg_attention.hpp>

#include "support/boolean_tensor.hpp"
#include "support/chosen_inputs.hpp"
#include "support/selected.hpp"

namespace attend {
using namespace options;
using namespace systems;

namespace {

using test::sizes;

constexpr lsg_selection all_selections[] = {lsg_selection::stride,  lsg_selection::block_stride, lsg_selection::norm,
                                            lsg_selection::pooling, lsg_selection::bos_pooling,  lsg_selection::lsh};

sizes of_tokens(index_t tokens) {
  return {.batches = 2,
          .query_heads = 4,
          .key_heads = 2,
          .value_heads = 1,
          .queries = tokens,
          .keys = tokens,
          .key_dimension = 12,
          .value_dimension = 9};
}

template <bool Causal, class T>
testing::AssertionResult follows(test::inputs<T> const& in, lsg_options settings, bool padded = false) {
  sizes const& s = in.size;
  auto const directions = test::normal<float, 3>(
      {s.query_heads, std::max<index_t>(settings.block / settings.factor / 2, 1), s.key_dimension}, 77);
  auto attended = test::boolean_tensor<2>({s.batches, s.keys});
  // Single tokens, whole groups and the end of one sequence are padding.
  auto const is_attended = [=](index_t b, index_t j) {
    return !padded || (j % 7 != 3 && (j / settings.factor) % 5 != 2 && (b == 0 || j < s.keys - 2 * settings.block));
  };
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t j = 0; j < s.keys; ++j) attended.view()(b, j) = is_attended(b, j);
  if (padded) settings.attended = std::as_const(attended).view();
  settings.directions = directions.view();
  auto const got = test::attend_by(in, [&](auto q, auto k, auto v, auto o, auto const&... options) {
    if constexpr (Causal)
      lsg_attention(q, k, v, o, settings, causal{}, options...);
    else
      lsg_attention(q, k, v, o, settings, options...);
  });
  auto const expected = reference::lsg_attention<T>(
      in.query.view(), in.key.view(), in.value.view(),
      {settings.block, settings.factor, settings.global, static_cast<reference::lsg_rule>(settings.selection), Causal,
       is_attended, directions.view()});
  double const allowed = 2 * test::tolerance<T>(test::largest_magnitude(in.value.elements));
  if (auto result = test::near(got.output.elements, expected.output, allowed); !result) return result;
  return test::near(got.log_sum_exp.elements, expected.log_sum_exp, test::tolerance<accumulation_t<T>>(10));
}

TEST(LsgAttention, FollowsItsDefinition) {
  auto const in = test::random_inputs<float>(of_tokens(117), 1, 1.5),
             whole = test::random_inputs<float>(of_tokens(96), 2);
  for (lsg_selection selection : all_selections) {
    EXPECT_TRUE((follows<false>(in, {8, 4, selection, 1}))) << static_cast<int>(selection);
    EXPECT_TRUE((follows<true>(in, {8, 4, selection, 1}))) << static_cast<int>(selection);
    EXPECT_TRUE((follows<false>(whole, {16, 2, selection, 0}))) << static_cast<int>(selection);
    EXPECT_TRUE((follows<true>(whole, {12, 1, selection, 5}))) << static_cast<int>(selection);
    EXPECT_TRUE((follows<false>(in, {6, 2, selection, 20}))) << static_cast<int>(selection);
  }
}

TEST(LsgAttention, LeavesPaddingOut) {
  auto const in = test::random_inputs<float>(of_tokens(117), 3, 1.5);
  for (lsg_selection selection : all_selections) {
    EXPECT_TRUE((follows<false>(in, {8, 4, selection, 1}, true))) << static_cast<int>(selection);
    EXPECT_TRUE((follows<true>(in, {8, 2, selection, 4}, true))) << static_cast<int>(selection);
  }
  EXPECT_TRUE((follows<false>(test::random_inputs<float>(of_tokens(30), 4), {15, 3, lsg_selection::norm, 2}, true)));
  EXPECT_TRUE((follows<true>(test::random_inputs<float>(of_tokens(30), 5), {16, 4, lsg_selection::norm, 2}, true)));
}

TEST(LsgAttention, FollowsItsDefinitionInOtherTypes) {
  for (lsg_selection selection : {lsg_selection::pooling, lsg_selection::stride}) {
    EXPECT_TRUE((follows<false>(test::random_inputs<double>(of_tokens(70), 6), {8, 4, selection, 1})));
    EXPECT_TRUE((follows<true>(test::random_inputs<bfloat16>(of_tokens(70), 7), {8, 4, selection, 1})));
  }
}

TEST(LsgAttention, CutsLongBlocks) {
  sizes s = of_tokens(1300);
  s.batches = s.query_heads = s.key_heads = 1;
  EXPECT_TRUE((follows<true>(test::random_inputs<float>(s, 8), {400, 8, lsg_selection::block_stride, 1})));
}

TEST(LsgAttention, ShowsAValueToThoseWhoSeeIt) {
  auto const in = test::with_nan_values(test::random_inputs<float>(of_tokens(117), 9));
  EXPECT_TRUE((follows<false>(in, {8, 4, lsg_selection::block_stride, 2})));
  EXPECT_TRUE((follows<true>(in, {8, 4, lsg_selection::stride, 2})));
}

TEST(LsgAttention, IsPlainUpToTwoBlocks) {
  for (index_t tokens : {0, 1, 15, 16}) {
    auto const in = test::random_inputs<float>(of_tokens(tokens), 10);
    auto const dense = test::attend_by(in, [](auto q, auto k, auto v, auto o, auto const&... options) {
      softmax_attention(q, k, v, o, causal{}, options...);
    });
    auto const got = test::attend_by(in, [](auto q, auto k, auto v, auto o, auto const&... options) {
      lsg_attention(q, k, v, o, {8, 4, lsg_selection::pooling, 0}, causal{}, options...);
    });
    EXPECT_TRUE(test::near(got.output.elements, dense.output.elements,
                           2 * test::tolerance<float>(test::largest_magnitude(in.value.elements))));
  }
}

TEST(LsgAttention, IsItsMaskWithStrides) {
  auto const in = test::random_inputs<float>(of_tokens(117), 11);
  auto const masked = test::attend_by(in, [](auto q, auto k, auto v, auto o, auto const&... options) {
    softmax_attention(q, k, v, o, local_sparse_global(8, 4, 3), options...);
  });
  auto const got = test::attend_by(in, [](auto q, auto k, auto v, auto o, auto const&... options) {
    lsg_attention(q, k, v, o, {8, 4, lsg_selection::stride, 3}, options...);
  });
  EXPECT_TRUE(test::near(got.output.elements, masked.output.elements,
                         2 * test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

TEST(LsgAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 9, .keys = 5}, 12);
  auto output = test::filled<float, 4>({1, 2, 9, 8}, 7);
  auto const q = in.query.view();
  auto const with = [&](lsg_options const& settings) { lsg_attention(q, q, q, output.view(), settings); };
  test::expect_error("key: expected tokens 9 (as query), got 5",
                     [&] { lsg_attention(q, in.key.view(), in.value.view(), output.view(), {2, 1}); });
  test::expect_error("lsg_options: expected blocks of 1 to 536870911 tokens, got 0", [&] { with({0, 1}); });
  test::expect_error("lsg_options: expected a factor that divides 8 (the block), got 3", [&] { with({8, 3}); });
  test::expect_error("lsg_options: expected a factor that divides 8 (the block), got 0", [&] { with({8, 0}); });
  test::expect_error("lsg_options: expected 0 to 9 global tokens, got 10",
                     [&] { with({8, 4, lsg_selection::stride, 10}); });
  test::expect_error("lsg_options: expected at least 2 buckets of a block for lsh, got 1",
                     [&] { with({8, 8, lsg_selection::lsh}); });
  auto const directions = test::normal<float, 3>({2, 3, 8}, 1);
  test::expect_error("directions: expected 2 of them (half of the buckets), got 3", [&] {
    with({.block = 8, .factor = 2, .selection = lsg_selection::lsh, .directions = directions.view()});
  });
  auto const attended = test::boolean_tensor<2>({1, 8});
  test::expect_error("attended: expected tokens 9 (as key), got 8",
                     [&] { with({.block = 8, .factor = 2, .attended = attended.view()}); });
  test::expect_error("causal: expected the last query at the last key (offset 0), got offset 2",
                     [&] { lsg_attention(q, q, q, output.view(), {}, causal{offset(2)}); });
  test::expect_scale_error([&](scale const& factor) { lsg_attention(q, q, q, output.view(), {}, factor); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
