// SPDX-License-Identifier: BSD-3-Clause
// MoBA's and Kinetics' choice of pages by their mean keys, against means of logits computed key by key.
#include <attend/attention/sparse_decode/mean_page_selector.hpp>

#include "support/chosen_inputs.hpp"
#include "support/selection.hpp"

namespace attend {
using namespace selection;
using namespace systems;

namespace {

using test::shape_of;
using test::sizes;

sizes const odd{2, 6, 2, 2, 1, 205, 20, 13};

template <class T, class S>
void expect_definition(sizes const& s, page_selector_options const& choice, reference::page_rule rule, unsigned seed) {
  auto const in = test::random_inputs<T>(s, seed);
  auto const cache = test::filled_cache<S>(in);
  auto const stored = test::as_stored(cache, in);
  rule.page_tokens = choice.page_tokens;
  rule.first_tokens = choice.budget.first;
  rule.last_tokens = choice.budget.last;
  rule.heads_per_group = choice.lists == list_of::query_head ? 1 : s.query_heads / s.key_heads;
  mean_page_selector<accumulation_t<T>> selector(shape_of(s), s.query_heads, s.keys, choice);
  selector.update(cache);
  test::expect_selection(in, cache, selector, reference::select_pages(stored.query.view(), stored.key.view(), rule));
}

TEST(MeanPageAttention, OfMobaCountsTheCurrentBlock) {
  for (list_of lists : {list_of::query_head, list_of::key_value_head}) {
    expect_definition<float, float>(odd, moba_blocks({.tokens = 3 * 32}, 32, lists), {.last_pages = 1, .pages = 2}, 1);
    expect_definition<float, float>(odd, moba_blocks({.tokens = 41}, 41, lists), {.last_pages = 1, .pages = 0}, 2);
    sizes several = odd;
    several.queries = 2;
    expect_definition<float, float>(several, moba_blocks({.tokens = 40}, 8, lists), {.last_pages = 1, .pages = 4}, 3);
  }
  expect_definition<bfloat16, bfloat16>(odd, moba_blocks({.tokens = 3 * 32}, 32), {.last_pages = 1, .pages = 2}, 4);
}

TEST(MeanPageAttention, OfKineticsIsByTheMeanOfTheGroup) {
  expect_definition<float, float>(odd, kinetics_blocks({.tokens = 4 + 9 + 48, .first = 4, .last = 9}),
                                  {.pages = 3, .by_mean = true}, 5);
  expect_definition<float, float>(odd, kinetics_blocks({.tokens = 16 + 48, .first = 16}, 16),
                                  {.pages = 3, .by_mean = true}, 6);
  expect_definition<bfloat16, std::int8_t>(odd, kinetics_blocks({.tokens = 20, .first = 2, .last = 3}, 5),
                                           {.pages = 3, .by_mean = true}, 7);
}

TEST(MeanPageAttention, ScoresTheMeanOfTheLogits) {
  auto const in = test::random_inputs<float>(odd, 8);
  auto const cache = test::filled_cache<float>(in);
  page_summaries<mean_key, float> means(shape_of(odd), odd.keys, 16);
  means.update(cache);
  for (index_t p = 0; p < 13; ++p) {
    double of_mean = 0, of_logits = 0, magnitude = 0;
    index_t const last = std::min<index_t>(16 * p + 16, odd.keys);
    for (index_t c = 0; c < 20; ++c) {
      double const q = in.query.view()(1, 4, 0, c);
      double partial = 0;
      of_mean += q * means.row(1, 1, p)[c];
      for (index_t j = 16 * p; j < last; ++j) {
        partial += q * in.key.view()(1, 1, j, c) / static_cast<double>(last - 16 * p);
        magnitude += std::abs(partial);
      }
      of_logits += partial;
      magnitude += std::abs(partial);
    }
    // One token after the other is added to a sum, which is rounded each time; then comes a quotient.
    EXPECT_NEAR(of_mean, of_logits, test::unit_roundoff<float>() * magnitude);
  }
}

TEST(MeanPageAttention, ShowsAValueToThoseThatChoseItsBlock) {
  auto const in = test::with_nan_values(test::random_inputs<float>(odd, 20));
  auto const cache = test::filled_cache<float>(in);
  mean_page_selector<float> selector(shape_of(odd), 6, odd.keys, moba_blocks({.tokens = 24}, 8));
  selector.update(cache);
  reference::page_rule const rule{.page_tokens = 8, .last_pages = 1, .pages = 2};
  auto const stored = test::as_stored(cache, in);
  test::expect_selection(in, cache, selector, reference::select_pages(stored.query.view(), stored.key.view(), rule));
}

TEST(MeanPageAttention, OfAllBlocksIsDense) {
  auto const in = test::random_inputs<float>(odd, 9);
  auto const cache = test::filled_cache<float>(in);
  for (page_selector_options const& choice :
       {moba_blocks({.fraction = 1}, 32), kinetics_blocks({.fraction = 1, .first = 4, .last = 7})}) {
    mean_page_selector<float> selector(shape_of(odd), 6, odd.keys, choice);
    selector.update(cache);
    test::expect_dense(in, cache, selector);
  }
}

// A needle's logit is divided by the block's tokens n, the noise of the others by sqrt(n): at 2000 tokens it stands out
// of blocks of 4, and cannot of blocks of hundreds.
TEST(MeanPageAttention, FindsNeedlesInShortBlocks) {
  sizes const s{1, 4, 2, 2, 1, 2000, 128, 16};
  EXPECT_GE(
      test::needles_found(
          s, 100,
          [&] { return mean_page_selector<float>(shape_of(s), 4, s.keys, kinetics_blocks({.fraction = 0.05}, 4)); }),
      0.99);
}

}  // namespace
}  // namespace attend
