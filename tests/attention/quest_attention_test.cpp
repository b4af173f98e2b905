// SPDX-License-Identifier: BSD-3-Clause
// Quest: pages against the paper's bound computed key by key, kept up to date however tokens come.
#include <attend/attention/sparse_decode/quest_selector.hpp>

#include "support/chosen_inputs.hpp"
#include "support/count_allocations.hpp"
#include "support/selection.hpp"

namespace attend {
using namespace caches;
using namespace selection;
using namespace extend;
using namespace systems;

namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;

sizes const odd{.batches = 2,
                .query_heads = 6,
                .key_heads = 2,
                .value_heads = 2,
                .queries = 1,
                .keys = 205,
                .key_dimension = 20,
                .value_dimension = 13};

template <class T, class S, class Bounds = S>
void expect_definition(sizes const& s, page_selector_options const& choice, index_t pages, unsigned seed) {
  auto const in = test::random_inputs<T>(s, seed);
  auto const cache = test::filled_cache<S>(in);
  auto const stored = test::as_stored(cache, in);
  reference::page_rule rule{.score = reference::bound_of_page,
                            .page_tokens = choice.page_tokens,
                            .first_tokens = choice.budget.first,
                            .last_tokens = choice.budget.last,
                            .pages = pages};
  rule.heads_per_group = choice.lists == list_of::query_head ? 1 : s.query_heads / s.key_heads;
  auto const seen = reference::select_pages(stored.query.view(), stored.key.view(), rule);
  quest_selector<Bounds> selector(shape_of(s), s.query_heads, s.keys, choice);
  selector.update(cache);
  test::expect_selection(in, cache, selector, seen);
}

TEST(QuestAttention, TakesThePagesOfTheLargestBounds) {
  for (list_of lists : {list_of::query_head, list_of::key_value_head}) {
    expect_definition<float, float>(odd, quest_pages({.tokens = 64}, 16, lists), 4, 1);
    expect_definition<float, float>(odd, quest_pages({.tokens = 20}, 7, lists), 3, 2);
    expect_definition<float, float>(odd, quest_pages({.tokens = 1}, 16, lists), 3, 3);
    expect_definition<float, float>(odd, quest_pages({.tokens = 40, .first = 3, .last = 9}, 8, lists), 4, 4);
    sizes several = odd;
    several.queries = 3;
    expect_definition<float, float>(several, quest_pages({.tokens = 30}, 5, lists), 6, 5);
  }
  sizes one = odd;
  one.query_heads = one.key_heads = one.value_heads = 1;
  one.key_dimension = 64;
  expect_definition<float, float>(one, quest_pages({.tokens = 64}), 4, 6);
  one.keys = 1;
  expect_definition<float, float>(one, quest_pages({.tokens = 64}), 4, 7);
}

// 30 tokens are 5 pages of 7 here, and 4 in the authors' code; the least number of pages, and a budget of all, stay.
TEST(QuestAttention, RoundsItsBudgetAsAsked) {
  auto const pages = [](index_t tokens, budget_rounding rounding) {
    return quest_pages({.tokens = tokens}, 7, list_of::key_value_head, rounding);
  };
  expect_definition<float, float>(odd, pages(30, budget_rounding::up), 5, 11);
  expect_definition<float, float>(odd, pages(30, budget_rounding::down), 4, 11);
  expect_definition<float, float>(odd, pages(28, budget_rounding::down), 4, 12);
  expect_definition<float, float>(odd, pages(20, budget_rounding::down), 3, 13);
  expect_definition<float, float>(odd, pages(odd.keys, budget_rounding::down), divide_up(odd.keys, 7), 14);
}

TEST(QuestAttention, BoundsStoredKeys) {
  expect_definition<bfloat16, bfloat16>(odd, quest_pages({.tokens = 64}), 4, 8);
  expect_definition<bfloat16, std::int8_t, float>(odd, quest_pages({.tokens = 64}), 4, 9);
  expect_definition<double, double>(odd, quest_pages({.tokens = 64}), 4, 10);
}

TEST(QuestAttention, ShowsAValueToThoseThatChoseItsPage) {
  auto const in = test::with_nan_values(test::random_inputs<float>(odd, 20));
  auto const cache = test::filled_cache<float>(in);
  quest_selector<float> selector(shape_of(odd), 6, odd.keys, quest_pages({.tokens = 24}, 8, list_of::query_head));
  selector.update(cache);
  reference::page_rule const rule{.score = reference::bound_of_page, .page_tokens = 8, .pages = 3};
  auto const stored = test::as_stored(cache, in);
  test::expect_selection(in, cache, selector, reference::select_pages(stored.query.view(), stored.key.view(), rule));
}

// The bound of a page of one token is its logit.
TEST(QuestAttention, BoundsNoLogitFromBelow) {
  auto const in = test::random_inputs<float>(odd, 11);
  auto const cache = test::filled_cache<float>(in);
  std::vector<float> mapped(40);
  for (index_t page_tokens : {16, 1}) {
    page_summaries<key_bounds, float> bounds(shape_of(odd), odd.keys, page_tokens);
    bounds.update(cache);
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 6; ++h) {
        float const* const query = &in.query.view()(b, h, 0, 0);
        bounds.kind().map_query(query, 20, {b, h, odd.keys - 1}, mapped.data());
        for (index_t j = 0; j < odd.keys; ++j) {
          // Products of two floats are exact in double, so that nothing but the sums is rounded.
          double logit = 0, bound = 0, magnitude = 0;
          for (index_t c = 0; c < 20; ++c) logit += static_cast<double>(query[c]) * in.key.view()(b, h / 3, j, c);
          for (index_t c = 0; c < 40; ++c) {
            double const term =
                static_cast<double>(mapped[static_cast<std::size_t>(c)]) * bounds.row(b, h / 3, j / page_tokens)[c];
            bound += term;
            magnitude += std::abs(term);
          }
          double const rounding = test::tolerance<double>(magnitude);
          EXPECT_GE(bound, logit - rounding);
          if (page_tokens == 1) {
            EXPECT_LE(bound, logit + rounding);
          }
        }
      }
  }
}

TEST(QuestAttention, KeepsUpWithWhatIsAppendedAndForgotten) {
  auto const in = test::random_inputs<float>(odd, 12);
  contiguous_cache<float> cache(shape_of(odd), odd.keys);
  quest_selector<float> pieces(shape_of(odd), 6, odd.keys, quest_pages({.tokens = 64})),
      whole = {shape_of(odd), 6, odd.keys, quest_pages({.tokens = 64})};
  std::mt19937 engine(1);
  for (index_t first = 0, count; first < odd.keys; first += count) {
    count = std::min<index_t>(engine() % 20, odd.keys - first);
    cache.append(test::tokens_of(in.key, first, count), test::tokens_of(in.value, first, count));
    pieces.update(cache, threads{2});
    // Some tokens, which are taken back.
    index_t const extra = std::min<index_t>(engine() % 20, odd.keys - first - count), size = first + count;
    cache.append(test::tokens_of(in.key, 0, extra), test::tokens_of(in.value, 0, extra));
    pieces.update(cache);
    for (index_t s : {0, 1}) {
      pieces.truncate(cache, s, size);
      cache.truncate(s, size);
    }
  }
  whole.update(cache);
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t p = 0; p < whole.summaries().pages(b); ++p)
        for (index_t i = 0; i < 40; ++i)
          ASSERT_EQ(pieces.summaries().row(b, h, p)[i], whole.summaries().row(b, h, p)[i]);
}

TEST(QuestAttention, OfAllPagesIsDense) {
  auto const in = test::random_inputs<float>(odd, 13);
  auto const cache = test::filled_cache<float>(in);
  for (list_of lists : {list_of::query_head, list_of::key_value_head}) {
    quest_selector<float> selector(shape_of(odd), 6, odd.keys, quest_pages({.fraction = 1}, 16, lists));
    selector.update(cache);
    test::expect_dense(in, cache, selector);
  }
}

// Forced tokens that end within pages leave more pages than their number says.
TEST(QuestAttention, OfAllTokensIsDenseWhereverForcedOnesEnd) {
  for (index_t keys : {1, 5, 16, 34, 65}) {
    sizes s = odd;
    s.keys = keys;
    auto const in = test::random_inputs<float>(s, 17);
    auto const cache = test::filled_cache<float>(in);
    for (index_t first : {0, 1, 17})
      for (index_t last : {0, 1, 31})
        for (index_t page : {3, 16}) {
          quest_selector<float> selector(
              shape_of(s), 6, keys,
              quest_pages({.fraction = 1, .first = first, .last = last}, page, list_of::query_head));
          selector.update(cache);
          test::expect_dense(in, cache, selector);
        }
  }
}

TEST(QuestAttention, TakesNumbersBeyondTheSequence) {
  auto const in = test::random_inputs<float>(odd, 18);
  auto const cache = test::filled_cache<float>(in);
  index_t const most = std::numeric_limits<index_t>::max();
  for (page_selector_options const& choice :
       {page_selector_options{.budget = {.tokens = most}},
        page_selector_options{.budget = {.tokens = 3, .first = most, .last = most}},
        page_selector_options{.budget = {.tokens = 3}, .first_pages = most, .last_pages = most, .min_pages = most},
        page_selector_options{.page_tokens = token_limit, .budget = {.tokens = 3}}}) {
    quest_selector<float> selector(shape_of(odd), 6, odd.keys, choice);
    selector.update(cache);
    test::expect_dense(in, cache, selector);
  }
}

TEST(QuestAttention, MayHaveNoQueryHeads) {
  auto const in = test::random_inputs<float>(odd, 19);
  auto const cache = test::filled_cache<float>(in);
  tensor_view<float const, 4> const none(nullptr, {2, 0, 1, 20});
  for (list_of lists : {list_of::query_head, list_of::key_value_head}) {
    quest_selector<float> selector(shape_of(odd), 0, odd.keys, quest_pages({}, 16, lists));
    selector.update(cache);
    selector.select(none, cache);
    token_lists const& chosen = selector.lists();
    EXPECT_EQ(chosen.sequences(), 2);
    EXPECT_EQ(chosen.heads(), lists == list_of::query_head ? 0 : odd.key_heads);
  }
}

TEST(QuestAttention, ForgetsOnlyWhatTheCacheStillHas) {
  auto const in = test::random_inputs<float>(odd, 20);
  auto cache = test::filled_cache<float>(in);
  quest_selector<float> selector(shape_of(odd), 6, odd.keys, quest_pages({.tokens = 64}));
  selector.update(cache);
  contiguous_cache<float> const one({1, 2, 20, 13}, 300), heads({2, 3, 20, 13}, 300), narrow({2, 2, 19, 13}, 300);
  expect_error("source: expected sequences 2 (as the summaries), got 1", [&] { selector.truncate(one, 1, 50); });
  expect_error("source: expected heads 2 (as the summaries), got 3", [&] { selector.truncate(heads, 1, 50); });
  expect_error("source: expected head dimension 20 (as the summaries), got 19",
               [&] { selector.truncate(narrow, 1, 50); });
  cache.truncate(1, 40);
  expect_error("source: expected at least 50 tokens (those that are kept), got 40",
               [&] { selector.truncate(cache, 1, 50); });
  EXPECT_EQ(selector.summaries().size(1), 205);
  selector.truncate(cache, 1, 40);
  EXPECT_EQ(selector.summaries().size(1), 40);
}

TEST(QuestAttention, ReadsTheCacheThatItWasToldOf) {
  auto const in = test::random_inputs<float>(odd, 21);
  auto const cache = test::filled_cache<float>(in);
  quest_selector<float> selector(shape_of(odd), 6, odd.keys, quest_pages({.tokens = 64}));
  selector.update(cache);
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  sizes s = odd;
  s.key_heads = s.value_heads = 3;
  auto const other = test::filled_cache<float>(test::random_inputs<float>(s, 22));
  expect_error("cache: expected heads 2 (as the selector), got 3",
               [&] { selected_attention(in.query.view(), other, selector, output.view()); });
  for (float x : output.elements) ASSERT_EQ(x, 7);
  // Keys and values that are read in place are not written over.
  auto values = in.value;
  key_value_tensors<float> const in_place(in.key.view(), std::as_const(values).view());
  quest_selector<float> of_tensors(shape_of(odd), 6, odd.keys, quest_pages({.tokens = 64}));
  of_tensors.update(in_place);
  expect_error("output: expected memory of its own, got memory that overlaps the cache's values", [&] {
    selected_attention(in.query.view(), in_place, of_tensors,
                       tensor_view<float, 4>(values.elements.data(), {2, 6, 1, 13}));
  });
  EXPECT_EQ(values.elements, in.value.elements);
}

TEST(QuestAttention, FindsNeedles) {
  sizes const s{1, 4, 2, 2, 1, 2000, 64, 16};
  EXPECT_GE(test::needles_found(
                s, 100, [&] { return quest_selector<float>(shape_of(s), 4, s.keys, quest_pages({.fraction = 0.05})); }),
            0.99);
}

TEST(QuestAttention, AllocatesNothingOnceWarm) {
  auto const in = test::random_inputs<float>(odd, 14);
  contiguous_cache<float> cache(shape_of(odd), odd.keys);
  quest_selector<float> selector(shape_of(odd), 6, odd.keys, quest_pages({.tokens = 64}));
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  cache.append(test::tokens_of(in.key, 0, 200), test::tokens_of(in.value, 0, 200));
  index_t first = 200;
  auto const step = [&] {
    cache.append(test::tokens_of(in.key, first, 1), test::tokens_of(in.value, first, 1));
    ++first;
    selector.update(cache);
    selected_attention(in.query.view(), cache, selector, output.view());
  };
  step();
  EXPECT_EQ(test::allocations_of_two(step).second, 0);
}

TEST(QuestAttention, CountsItsBytes) {
  auto const in = test::random_inputs<float>(odd, 15);
  auto const cache = test::filled_cache<bfloat16>(in);
  quest_selector<bfloat16> selector(shape_of(odd), 6, odd.keys, quest_pages({.tokens = 64}));
  EXPECT_EQ(selector.bytes_scored(), 0);
  selector.update(cache);
  EXPECT_EQ(selector.bytes_scored(), 2 * 2 * 13 * round_up(40, simd::group_elements<bfloat16>) * 2);
}

TEST(QuestAttention, SaysWhatIsWrong) {
  auto const in = test::random_inputs<float>(odd, 16);
  auto const cache = test::filled_cache<float>(in);
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  quest_selector<float> selector(shape_of(odd), 6, 300, quest_pages({.tokens = 64}));
  auto const attend = [&](auto const& query) { selected_attention(query, cache, selector, output.view()); };
  expect_error("cache: expected tokens 0 (as the selector was told), got 205", [&] { attend(in.query.view()); });
  selector.update(cache);
  auto const heads = test::normal<float, 4>({2, 4, 1, 20}, 1), narrow = test::normal<float, 4>({2, 6, 1, 19}, 1),
             one = test::normal<float, 4>({1, 6, 1, 20}, 1);
  expect_error("query: expected heads 6 (as the selector), got 4", [&] { attend(heads.view()); });
  expect_error("query: expected head dimension 20 (as the selector), got 19", [&] { attend(narrow.view()); });
  expect_error("query: expected sequences 2 (as the selector), got 1", [&] { attend(one.view()); });
  for (float x : output.elements) ASSERT_EQ(x, 7);
  auto const make = [&](index_t query_heads, index_t capacity, page_selector_options const& choice) {
    quest_selector<float>(shape_of(odd), query_heads, capacity, choice).update(cache);
  };
  expect_error("query_heads: expected a multiple of 2 (the key-value heads), got 5", [&] { make(5, 300, {}); });
  expect_error("page_summaries: expected pages of at least 1 token, got 0", [&] { make(6, 300, quest_pages({}, 0)); });
  expect_error("page_summaries: expected extents of at most 536870912, got 536870913",
               [&] { make(6, 300, quest_pages({}, token_limit + 1)); });
  expect_error("source: expected from 0 (what was summarized) to 100 tokens (the capacity), got 205",
               [&] { make(6, 100, {}); });
  expect_error("budget: expected at least 0 tokens, got -3", [&] { make(6, 300, quest_pages({.tokens = -3})); });
  expect_error("choice: expected at least 0 pages, got -1", [&] { make(6, 300, {.min_pages = -1}); });
  expect_error("size: expected from 0 to 205 (the tokens), got 206", [&] { selector.truncate(cache, 0, 206); });
  contiguous_cache<float> const other({2, 3, 20, 13}, 10);
  expect_error("source: expected heads 2 (as the summaries), got 3", [&] { selector.update(other); });
}

}  // namespace
}  // namespace attend
