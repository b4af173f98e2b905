// SPDX-License-Identifier: BSD-3-Clause
// Loki: tokens ranked by the first principal channels, and keys that are rotated to them.
#include <attend/attention/cached/principal_slicing.hpp>
#include <attend/attention/sparse_decode/loki_selector.hpp>

#include <algorithm>
#include <functional>
#include <numeric>

#include "support/chosen_inputs.hpp"
#include "support/selection.hpp"

namespace attend {
using namespace linear;
using namespace selection;
using namespace extend;
using namespace systems;

namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;

sizes const odd{2, 6, 2, 2, 1, 205, 20, 13};

template <class S, class T>
void expect_definition(test::inputs<T> const& in, index_t rank, list_of lists, score_of score) {
  sizes const& s = in.size;
  auto const cache = test::filled_cache<S>(in);
  auto const stored = test::as_stored(cache, in);
  reference::page_rule const rule{.score = reference::leading_channels(rank),
                                  .pages = 21,
                                  .heads_per_group = lists == list_of::query_head ? 1 : s.query_heads / s.key_heads,
                                  .by_mean = score == score_of::mean};
  loki_selector<S> selector(shape_of(s), s.query_heads, s.keys, loki_tokens({.tokens = 21}, lists, score), {rank});
  selector.update(cache);
  EXPECT_EQ(selector.bytes_scored(), s.batches * s.key_heads * s.keys * static_cast<index_t>(sizeof(S)) *
                                         round_up(rank, simd::group_elements<S>));
  test::expect_selection(in, cache, selector, reference::select_pages(stored.query.view(), stored.key.view(), rule));
}

template <class T, class S>
void expect_definition(sizes const& s, index_t rank, list_of lists, score_of score, unsigned seed) {
  expect_definition<S>(test::random_inputs<T>(s, seed), rank, lists, score);
}

TEST(LokiAttention, TakesTheLowerOfEqualTokens) {
  for (list_of lists : {list_of::query_head, list_of::key_value_head})
    expect_definition<float>(test::whole_number_inputs<float>({2, 4, 2, 2, 1, 205, 20, 13}, 20), 3, lists,
                             score_of::largest);
}

TEST(LokiAttention, ShowsAValueWhereItIsChosen) {
  expect_definition<float>(test::with_nan_values(test::random_inputs<float>(odd, 21)), 5, list_of::query_head,
                           score_of::mean);
}

TEST(LokiAttention, TakesTheTokensOfTheLargestLeadingProducts) {
  for (list_of lists : {list_of::query_head, list_of::key_value_head})
    for (score_of score : {score_of::largest, score_of::mean}) {
      expect_definition<float, float>(odd, 5, lists, score, 1);
      expect_definition<float, float>(odd, 20, lists, score, 2);
    }
  expect_definition<bfloat16, bfloat16>(odd, 7, list_of::key_value_head, score_of::mean, 3);
}

TEST(LokiAttention, OfAllTokensIsDense) {
  auto const in = test::random_inputs<float>(odd, 4);
  auto const cache = test::filled_cache<float>(in);
  loki_selector<float> selector(shape_of(odd), 6, odd.keys, loki_tokens({.fraction = 1}), {4});
  selector.update(cache);
  test::expect_dense(in, cache, selector);
}

/// Keys of which a few directions have most of the variance, as those of models do.
test::inputs<float> low_rank_inputs(sizes const& s, unsigned seed) {
  auto in = test::random_inputs<float>(s, seed);
  auto const mix = test::normal<float, 2>({s.key_dimension, s.key_dimension}, 99);
  for (auto* all : {&in.key, &in.query})
    for (std::size_t row = 0; row < all->elements.size(); row += static_cast<std::size_t>(s.key_dimension)) {
      std::vector<float> const from(all->elements.begin() + static_cast<std::ptrdiff_t>(row),
                                    all->elements.begin() + static_cast<std::ptrdiff_t>(row) + s.key_dimension);
      for (index_t c = 0; c < s.key_dimension; ++c) {
        float sum = 0;
        for (index_t k = 0; k < s.key_dimension; ++k)
          sum += from[static_cast<std::size_t>(k)] * mix.view()(k, c) / static_cast<float>(1 + k);
        all->elements[row + static_cast<std::size_t>(c)] = sum;
      }
    }
  return in;
}

double largest_norm(test::tensor<float, 4> const& rows) {
  double largest = 0;
  auto const dimension = static_cast<std::size_t>(rows.extents[3]);
  for (std::size_t row = 0; row < rows.elements.size(); row += dimension) {
    double square = 0;
    for (std::size_t c = row; c < row + dimension; ++c)
      square += static_cast<double>(rows.elements[c]) * rows.elements[c];
    largest = std::max(largest, std::sqrt(square));
  }
  return largest;
}

TEST(LokiAttention, OnPrincipalAxesKeepsLogitsAndFindsTheLargest) {
  sizes const s{1, 4, 2, 2, 1, 1000, 24, 8};
  auto const in = low_rank_inputs(s, 5);
  auto axes = test::filled<float, 3>({2, 24, 24}, 0);
  for (index_t head = 0; head < 2; ++head) {
    auto const slicing =
        principal_slicing(tensor_view<float const, 2>(&in.key.view()(0, head, 0, 0), {s.keys, s.key_dimension}), 1);
    std::copy_n(slicing.transform.data(), 24 * 24, &axes.view()(head, 0, 0));
  }
  auto rotated = in;
  to_principal_axes(in.query.view(), std::as_const(axes).view(), rotated.query.view());
  to_principal_axes(in.key.view(), std::as_const(axes).view(), rotated.key.view());
  auto threaded = rotated.key;
  to_principal_axes(in.key.view(), std::as_const(axes).view(), threaded.view(), threads{2});
  EXPECT_TRUE(test::same_bits(rotated.key.elements, threaded.elements)) << "other bits on two threads";
  auto const cache = test::filled_cache<float>(rotated), plain = test::filled_cache<float>(in);
  auto output = test::filled<float, 4>({1, 4, 1, 8}, 7), dense = output;
  decode_attention(in.query.view(), plain, dense.view());
  decode_attention(std::as_const(rotated.query).view(), cache, output.view());
  // The products of norms that logits have errors of, in those of normal numbers.
  double const largest_value = test::largest_magnitude(in.value.elements);
  double const products = largest_norm(in.query) * largest_norm(in.key) / static_cast<double>(s.key_dimension);
  double const rounding = test::tolerance<float>(products * largest_value);
  EXPECT_TRUE(test::near(output.elements, dense.elements, rounding));
  loki_selector<float> selector(shape_of(s), 4, s.keys, loki_tokens({.fraction = 0.2}, list_of::query_head), {6});
  selector.update(cache);
  selected_attention(std::as_const(rotated.query).view(), cache, selector, output.view());
  for (index_t h = 0; h < 4; ++h) {
    std::vector<double> weight;
    double sum = 0, largest_rest = 0;
    for (index_t j = 0; j < s.keys; ++j) {
      double logit = 0, leading = 0;
      for (index_t c = 0; c < 24; ++c) {
        double const term = static_cast<double>(rotated.query.view()(0, h, 0, c)) * rotated.key.view()(0, h / 2, j, c);
        logit += term / std::sqrt(24.0);
        if (c < 6) leading += term / std::sqrt(24.0);
      }
      largest_rest = std::max(largest_rest, std::abs(logit - leading));
      weight.push_back(std::exp(logit));
      sum += weight.back();
    }
    auto const list = selector.lists()(0, h);
    double found = 0;
    for (index_t j : list) found += weight[static_cast<std::size_t>(j)] / sum;
    std::sort(weight.begin(), weight.end(), std::greater<>());
    double const best =
        std::accumulate(weight.begin(), weight.begin() + static_cast<std::ptrdiff_t>(list.size()), 0.0) / sum;
    // Of two tokens the one with the larger leading product is taken; its weight is at least exp(-2 rest) of the other
    // one's, where no logit has more than the rest in the channels that do not lead.
    EXPECT_GE(found, std::exp(-2 * largest_rest) * best);
    // Without a share of the weights an output moves by that share of how far apart two means of values are.
    for (index_t c = 0; c < 8; ++c)
      EXPECT_NEAR(output.view()(0, h, 0, c), dense.view()(0, h, 0, c), (1 - found) * 2 * largest_value + rounding);
  }
}

TEST(LokiAttention, FindsNeedles) {
  sizes const s{1, 4, 2, 2, 1, 2000, 64, 16};
  EXPECT_GE(
      test::needles_found(
          s, 100, [&] { return loki_selector<float>(shape_of(s), 4, s.keys, loki_tokens({.fraction = 0.05}), {32}); }),
      0.99);
}

TEST(LokiAttention, SaysWhatIsWrong) {
  for (index_t rank : {0, 21})
    expect_error("rank: expected from 1 to 20 (the head dimension), got " + std::to_string(rank),
                 [&] { loki_selector<float>(shape_of(odd), 6, 10, loki_tokens({}), {rank}); });
  expect_error("page_tokens: expected pages of 1 token, got 16",
               [&] { loki_selector<float>(shape_of(odd), 6, 10, {.page_tokens = 16}, {3}); });
  auto const x = test::normal<float, 4>({1, 4, 2, 3}, 1);
  auto y = test::filled<float, 4>({1, 4, 2, 3}, 7), narrow = test::filled<float, 4>({1, 4, 2, 2}, 7);
  auto const axes = test::normal<float, 3>({3, 3, 3}, 1), flat = test::normal<float, 3>({2, 2, 3}, 1),
             right = test::normal<float, 3>({2, 3, 3}, 1);
  expect_error("axes: expected a head count that divides 4 (x), got 3",
               [&] { to_principal_axes(x.view(), axes.view(), y.view()); });
  expect_error("axes: expected rows 3 (as x's dimension), got 2",
               [&] { to_principal_axes(x.view(), flat.view(), y.view()); });
  expect_error("y: expected shape [1, 4, 2, 3] (as x), got [1, 4, 2, 2]",
               [&] { to_principal_axes(x.view(), right.view(), narrow.view()); });
  expect_error("y: expected memory of its own, got memory that overlaps axes", [&] {
    to_principal_axes(x.view(), tensor_view<float const, 3>(y.elements.data(), {2, 3, 3}), y.view());
  });
  auto const wide = test::normal<float, 3>({2, 3, 4}, 1);
  expect_error("axes: expected columns 3 (as x's dimension), got 4",
               [&] { to_principal_axes(x.view(), wide.view(), y.view()); });
  expect_error("threads: expected a count of at least 0, got -1",
               [&] { to_principal_axes(x.view(), right.view(), y.view(), threads{-1}); });
  for (float element : y.elements) EXPECT_EQ(element, 7);
}

}  // namespace
}  // namespace attend
