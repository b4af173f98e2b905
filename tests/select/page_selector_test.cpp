// SPDX-License-Identifier: BSD-3-Clause
// Pages chosen by their summaries, at all sizes: no tokens, one, pages that are not full, budgets of nothing and of
// more than there is, tokens and pages that are taken in any case, equal scores, and lists of different lengths.
#include <attend/attention/sparse_decode/selected_attention.hpp>
#include <attend/select/page_selector.hpp>

#include "support/chosen_inputs.hpp"
#include "support/selection.hpp"

namespace attend {
using namespace selection;
using namespace extend;

namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;

/// Pages beside those that are taken in any case: all where the budget is all tokens.
index_t free_pages(page_selector_options const& choice, index_t size) {
  selection_budget const& budget = choice.budget;
  index_t const page = choice.page_tokens, pages = (size + page - 1) / page, tokens = budget.of(0, size);
  if (tokens == size) return pages;
  index_t const forced = std::min(budget.first, size) + std::min(budget.last, size);
  return std::max((std::max<index_t>(tokens - forced, 0) + page - 1) / page, choice.min_pages) -
         std::min(choice.first_pages, pages) - std::min(choice.last_pages, pages);
}

template <class Kind>
void expect_definition(index_t keys, page_selector_options const& choice, reference::page_score const& score) {
  sizes const s{1, 2, 1, 1, 2, keys, 3, 2};
  auto const in = test::whole_number_inputs<float>(s, static_cast<unsigned>(keys));
  auto const cache = test::filled_cache<float>(in);
  auto const stored = test::as_stored(cache, in);
  reference::page_rule const rule{.score = score,
                                  .page_tokens = choice.page_tokens,
                                  .first_tokens = choice.budget.first,
                                  .last_tokens = choice.budget.last,
                                  .first_pages = choice.first_pages,
                                  .last_pages = choice.last_pages,
                                  .pages = free_pages(choice, keys),
                                  .heads_per_group = choice.lists == list_of::query_head ? 1 : 2};
  page_selector<Kind, float> selector(shape_of(s), 2, keys, choice);
  selector.update(cache);
  SCOPED_TRACE(testing::Message() << keys << " keys, pages of " << choice.page_tokens << ", budget "
                                  << choice.budget.tokens << ", first " << choice.budget.first << " and "
                                  << choice.first_pages << ", last " << choice.budget.last << " and "
                                  << choice.last_pages);
  test::expect_selection(in, cache, selector, reference::select_pages(stored.query.view(), stored.key.view(), rule));
}

// Whole numbers make many pages equal, of which the lower ones are chosen.
TEST(PageSelector, TakesTheBestPagesAtAllSizes) {
  for (index_t page : {1, 8})
    for (index_t tokens : {0, 1, 8, 9, 24, 1000})
      for (auto [first, last] : {std::pair<index_t, index_t>{0, 0}, {3, 0}, {0, 3}, {9, 9}, {100, 100}})
        for (index_t last_pages : {0, 1}) {
          page_selector_options choice{.page_tokens = page,
                                       .budget = {.tokens = tokens, .fraction = 0, .first = first, .last = last},
                                       .last_pages = last_pages,
                                       .lists = list_of::query_head};
          for (index_t keys : {0, 1, 7, 8, 9, 41})
            expect_definition<key_bounds>(keys, choice, reference::bound_of_page);
          choice.lists = list_of::key_value_head;
          for (index_t keys : {1, 41}) expect_definition<last_key>(keys, choice, reference::last_of_page);
          for (index_t keys : {0, 16, 40}) expect_definition<mean_key>(keys, choice, reference::mean_of_page);
        }
}

TEST(PageSelector, TakesFirstPagesAndAtLeastSoMany) {
  for (index_t keys : {0, 5, 8, 24, 41})
    for (index_t least : {0, 2, 4, 100})
      for (index_t first : {0, 1, 3}) {
        page_selector_options const choice{.page_tokens = 8,
                                           .budget = {.fraction = 0},
                                           .first_pages = first,
                                           .last_pages = 1,
                                           .min_pages = least,
                                           .lists = list_of::query_head};
        expect_definition<key_bounds>(keys, choice, reference::bound_of_page);
      }
}

TEST(PageSelector, WithoutAQueryTakesWhatIsForced) {
  sizes const s{2, 4, 2, 2, 0, 30, 8, 8};
  auto const in = test::random_inputs<float>(s, 1);
  auto const cache = test::filled_cache<float>(in);
  page_selector<mean_key, float> selector(shape_of(s), 4, 30, {.page_tokens = 8, .budget = {.tokens = 20, .first = 2}});
  selector.update(cache);
  selector.select(in.query.view(), cache);
  for (index_t b : {0, 1})
    for (index_t h : {0, 1}) EXPECT_EQ(selector.lists().size(b, h), 2);
}

TEST(PageSelector, GivesEachHeadItsBudget) {
  sizes const s{2, 6, 3, 3, 1, 200, 16, 8};
  auto const in = test::random_inputs<float>(s, 2);
  auto const cache = test::filled_cache<float>(in);
  std::vector<index_t> const each{8, 0, 130};
  auto const make = [&](selection_budget const& budget) {
    page_selector<key_bounds, float> selector(shape_of(s), 6, s.keys, {.page_tokens = 8, .budget = budget});
    selector.update(cache);
    return selector;
  };
  auto selector = make({.each = each});
  auto output = test::filled<float, 4>({2, 6, 1, 8}, 7);
  selected_attention(in.query.view(), cache, selector, output.view());
  for (std::size_t h = 0; h < 3; ++h) {
    auto alone = make({.tokens = each[h], .fraction = 0});
    alone.select(in.query.view(), cache);
    for (index_t b : {0, 1}) {
      auto const list = selector.lists()(b, static_cast<index_t>(h)), same = alone.lists()(b, static_cast<index_t>(h));
      EXPECT_EQ(list.size(), static_cast<std::size_t>((each[h] + 7) / 8 * 8));
      EXPECT_TRUE(std::equal(list.begin(), list.end(), same.begin(), same.end()));
    }
  }
  test::seen_tokens seen(2, std::vector<std::vector<bool>>(6, std::vector<bool>(200, false)));
  for (index_t b : {0, 1})
    for (index_t h = 0; h < 6; ++h)
      for (index_t token : selector.lists()(b, h / 2))
        seen[static_cast<std::size_t>(b)][static_cast<std::size_t>(h)][static_cast<std::size_t>(token)] = true;
  EXPECT_TRUE(test::near(output.elements, test::attention_to(test::as_stored(cache, in), seen).output,
                         test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

// A mean that is NaN is below all numbers: such a page is taken where all are, and nowhere else is it seen.
TEST(PageSelector, TakesNanLast) {
  sizes const s{1, 2, 1, 1, 1, 64, 8, 8};
  auto in = test::random_inputs<float>(s, 3);
  for (index_t c = 0; c < 8; ++c)
    in.key.view()(0, 0, 19, c) = in.value.view()(0, 0, 19, c) = std::numeric_limits<float>::quiet_NaN();
  auto const cache = test::filled_cache<float>(in);
  page_selector<mean_key, float> selector(shape_of(s), 2, 64, {.page_tokens = 8, .budget = {.tokens = 56}});
  selector.update(cache);
  auto output = test::filled<float, 4>({1, 2, 1, 8}, 7);
  selected_attention(in.query.view(), cache, selector, output.view());
  EXPECT_EQ(selector.lists().size(0, 0), 56);
  EXPECT_FALSE(test::lists_have(selector.lists(), 19));
  for (float x : output.elements) EXPECT_TRUE(std::isfinite(x));
}

TEST(PageSelector, ReadsASummaryOfEachPage) {
  sizes const s{3, 4, 2, 2, 1, 100, 20, 8};
  auto const cache = test::filled_cache<bfloat16>(test::random_inputs<bfloat16>(s, 4));
  auto const bytes = [&](auto kind, index_t page, index_t numbers) {
    page_selector<decltype(kind), bfloat16> selector(shape_of(s), 4, 100, {.page_tokens = page}, kind);
    selector.update(cache);
    EXPECT_EQ(selector.bytes_scored(),
              3 * 2 * divide_up(100, page) * round_up(numbers, simd::group_elements<bfloat16>) * 2);
  };
  bytes(mean_key{}, 16, 20);
  bytes(key_bounds{}, 7, 40);
  bytes(last_key{}, 51, 20);
  bytes(leading_keys{5}, 1, 5);
  bytes(written_key{}, 25, 20);
}

TEST(PageSelector, SaysWhatIsWrong) {
  sizes const s{1, 2, 1, 1, 1, 30, 8, 8};
  auto const in = test::random_inputs<float>(s, 5);
  auto const cache = test::filled_cache<float>(in);
  page_selector<mean_key, float> selector(shape_of(s), 2, 40, {});
  expect_error("threads: expected a count of at least 0, got -1", [&] { selector.update(cache, threads{-1}); });
  EXPECT_EQ(selector.summaries().size(0), 0) << "nothing was taken in";
  selector.update(cache);
  expect_error("threads: expected a count of at least 0, got -2",
               [&] { selector.select(in.query.view(), cache, threads{-2}); });
  contiguous_cache<float> const fewer(shape_of(s), 30), sequences({2, 1, 8, 8}, 30), narrow({1, 1, 7, 8}, 30);
  expect_error("source: expected from 30 (what was summarized) to 40 tokens (the capacity), got 0",
               [&] { selector.update(fewer); });
  expect_error("source: expected sequences 1 (as the summaries), got 2", [&] { selector.update(sequences); });
  expect_error("source: expected head dimension 8 (as the summaries), got 7", [&] { selector.update(narrow); });
  expect_error("cache: expected sequences 1 (as the selector), got 2",
               [&] { selector.select(in.query.view(), sequences); });
  expect_error("cache: expected tokens 30 (as the selector was told), got 0",
               [&] { selector.select(in.query.view(), fewer); });
  expect_error("sequence: expected from 0 to 0, got 1", [&] { selector.truncate(cache, 1, 3); });
  expect_error("size: expected from 0 to 30 (the tokens), got -1", [&] { selector.truncate(cache, 0, -1); });
  auto const make = [&](page_selector_options const& choice) {
    page_selector<mean_key, float>(shape_of(s), 2, 40, choice);
  };
  expect_error("choice: expected at least 0 pages, got -2", [&] { make({.first_pages = -2}); });
  expect_error("choice: expected at least 0 pages, got -3", [&] { make({.last_pages = -3}); });
  std::vector<index_t> const each{1, 2, 3};
  expect_error("budget: expected tokens for each of 1 lists, got 3", [&] { make({.budget = {.each = each}}); });
  expect_error("token_lists: expected extents of at least 0, got [1, 1, -16]",
               [&] { page_selector<mean_key, float>(shape_of(s), 2, -16, {}); });
}

}  // namespace
}  // namespace attend
