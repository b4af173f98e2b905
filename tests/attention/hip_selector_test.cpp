// SPDX-License-Identifier: BSD-3-Clause
// HiP's decoding: its lists against the definition, over every kind of cache, as sequences grow between searches.
#include <attend/attention/sparse_decode/hip_selector.hpp>
#include <attend/cache/paged.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/reference/hip_attention.hpp>

#include "support/chosen_inputs.hpp"
#include "support/count_allocations.hpp"
#include "support/selection.hpp"

namespace attend {
using namespace caches;
using namespace selection;
using namespace extend;
using namespace options;
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

/// What a search shows the last queries of a sequence: blocks of a list that `heads` query heads share, and where the
/// window begins.
struct searched_tokens {
  index_t sinks = 0, window = 0;
  std::vector<std::vector<index_t>> found;  // of each list

  searched_tokens(test::inputs<double> const& in, index_t batch, index_t size, index_t first_query, index_t queries,
                  hip_selector_options const& with) {
    auto const query = in.query.view();
    auto const key = in.key.view();
    index_t const group = query.extent(1) / key.extent(1), b = with.block_tokens;
    index_t const heads = with.lists == list_of::query_head ? 1 : group;
    window = std::max<index_t>(std::max<index_t>(size - queries, 0) / b - with.local, 0);
    sinks = std::min(with.sinks, window);
    reference::tree_search_sizes const sizes{.query_block = queries,
                                             .key_block = b,
                                             .blocks = with.blocks,
                                             .local = with.local,
                                             .sinks = with.sinks,
                                             .representative = static_cast<reference::tree_representative>(with.form)};
    for (index_t h = 0; h < query.extent(1); h += heads)
      found.push_back(reference::tree_search(sinks, window, sizes, [&](index_t token, index_t every) {
        double most = -infinity<double>;
        for (index_t head = h; head < h + heads; ++head)
          for (index_t i = 0; i < queries; i += every) {
            double sum = 0;
            for (index_t c = 0; c < key.extent(3); ++c)
              sum += query(batch, head, first_query + i, c) * key(batch, h / group, token, c);
            most = std::max(most, sum);
          }
        return most;
      }));
  }

  bool has(index_t list, index_t token, index_t block_tokens) const {
    index_t const block = token / block_tokens;
    auto const& blocks = found[static_cast<std::size_t>(list)];
    return block < sinks || block >= window || std::find(blocks.begin(), blocks.end(), block) != blocks.end();
  }
};

test::seen_tokens seen_in(std::vector<searched_tokens> const& searched, index_t heads, index_t size,
                          index_t block_tokens) {
  test::seen_tokens seen;
  for (searched_tokens const& one : searched) {
    auto& of_sequence = seen.emplace_back();
    index_t const of_list = heads / static_cast<index_t>(one.found.size());
    for (index_t h = 0; h < heads; ++h) {
      auto& of_head = of_sequence.emplace_back();
      for (index_t t = 0; t < size; ++t) of_head.push_back(one.has(h / of_list, t, block_tokens));
    }
  }
  return seen;
}

template <class T, class Cache>
void expect_definition(sizes const& s, Cache const& cache, test::inputs<T> const& in,
                       hip_selector_options const& settings) {
  auto const stored = test::as_stored(cache, in);
  std::vector<searched_tokens> searched;
  for (index_t b = 0; b < s.batches; ++b) searched.emplace_back(stored, b, s.keys, 0, s.queries, settings);
  hip_selector<accumulation_t<T>> selector(shape_of(s), s.query_heads, s.keys, settings);
  test::expect_selection(in, cache, selector, seen_in(searched, s.query_heads, s.keys, settings.block_tokens));
}
template <class T, class S>
void expect_definition(sizes const& s, hip_selector_options const& settings, unsigned seed) {
  auto const in = test::random_inputs<T>(s, seed);
  expect_definition(s, test::filled_cache<S>(in), in, settings);
}

TEST(HipSelector, TakesWhatItsSearchFinds) {
  unsigned seed = 0;
  for (hip_form form : {hip_form::middle_token, hip_form::first_token, hip_form::first_block})
    for (list_of lists : {list_of::query_head, list_of::key_value_head}) {
      expect_definition<float, float>(odd, {8, 4, 1, 1, form, 1, lists}, ++seed);
      expect_definition<float, float>(odd, {1, 9, 3, 2, form, 1, lists}, ++seed);
      sizes several = odd;
      several.queries = 5;
      expect_definition<float, float>(several, {5, 7, 0, 0, form, 1, lists}, ++seed);
    }
}

TEST(HipSelector, ReadsEveryKindOfCache) {
  hip_selector_options const settings{4, 6, 1, 1};
  expect_definition<half, half>(odd, settings, 21);

  auto const in = test::random_inputs<bfloat16>(odd, 22);
  paged_cache<bfloat16> pages(shape_of(odd), {.pages = 60, .page_tokens = 7});
  for (index_t first = 0; first < odd.keys; first += 41)
    pages.append(test::tokens_of(in.key, first, 41), test::tokens_of(in.value, first, 41));
  expect_definition(odd, pages, in, settings);

  auto scales = test::filled<float, 2>({2, 20}, 1.f);
  for (index_t c = 0; c < 20; ++c) scales.view()(1, c) += static_cast<float>(c) / 4;
  auto const wide = test::random_inputs<float>(odd, 23);
  paged_cache<std::int8_t> scaled(shape_of(odd), {.pages = 60, .page_tokens = 7}, std::as_const(scales).view());
  scaled.append(wide.key.view(), wide.value.view());
  expect_definition(odd, scaled, wide, settings);
}

TEST(HipSelector, TakesTheLowerOfEqualBlocks) {
  auto const in = test::whole_number_inputs<float>(odd, 30);
  expect_definition(odd, test::filled_cache<float>(in), in, {2, 9, 1, 1});
}

TEST(HipSelector, ShowsAValueToThoseThatFoundIt) {
  auto const in = test::with_nan_values(test::random_inputs<float>(odd, 31));
  expect_definition(odd, test::filled_cache<float>(in), in,
                    {4, 6, 1, 1, hip_form::middle_token, 1, list_of::query_head});
}

TEST(HipSelector, WithAllBlocksIsDense) {
  auto const in = test::random_inputs<float>(odd, 32);
  auto const cache = test::filled_cache<float>(in);
  hip_selector<float> selector(shape_of(odd), 6, odd.keys, {.block_tokens = 8, .blocks = 1000});
  test::expect_dense(in, cache, selector);
}

// Searches in the first, fourth, seventh step; what came since is in the window, which begins where it did.
TEST(HipSelector, UsesASearchForSomeSteps) {
  auto const in = test::random_inputs<float>(odd, 33);
  test::inputs<double> all{odd, {{2, 6, odd.keys, 20}, {}}, {in.key.extents, {}}, {in.value.extents, {}}};
  auto const queries = test::normal<float, 4>({2, 6, odd.keys, 20}, 34);
  all.query.elements.assign(queries.elements.begin(), queries.elements.end());
  all.key.elements.assign(in.key.elements.begin(), in.key.elements.end());
  hip_selector_options const settings{.block_tokens = 4, .blocks = 5, .every = 3};
  contiguous_cache<float> cache(shape_of(odd), odd.keys);
  hip_selector<float> selector(shape_of(odd), 6, odd.keys, settings);
  cache.append(test::tokens_of(in.key, 0, 100), test::tokens_of(in.value, 0, 100));
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7.f);
  std::vector<searched_tokens> searched;
  auto const step = [&](bool search) {
    index_t const size = cache.size(0) + 1;
    cache.append(test::tokens_of(in.key, size - 1, 1), test::tokens_of(in.value, size - 1, 1));
    if (search) {
      searched.clear();
      for (index_t b : {0, 1}) searched.emplace_back(all, b, size, size - 1, 1, settings);
    }
    selected_attention(test::tokens_of(queries, size - 1, 1), cache, selector, output.view());
    EXPECT_EQ(selector.searched(), search) << size;
    EXPECT_EQ(selector.bytes_scored() > 0, search) << size;
    EXPECT_TRUE(test::lists_are(selector.lists(), seen_in(searched, 6, size, 4))) << size;
  };
  for (int i = 0; i < 60; ++i) step(i % 3 == 0);
  step(true);
  selector.refresh();
  step(true);
  for (index_t s : {0, 1}) cache.truncate(s, 90);
  step(true);
  step(false);
}

// A prompt that is appended and attended to in blocks has the lists of hip_attention.
TEST(HipSelector, PrefillsInBlocks) {
  sizes s = odd;
  s.batches = 1;
  s.keys = s.queries = 160;
  auto const in = test::random_inputs<float>(s, 35);
  reference::options with;
  with.visible = [lists = reference::searched<float>(in.query.view(), in.key.view(), {32, 8, 4, 1, 1})](
                     reference::place const& at) { return lists(at); };
  auto const expected = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  paged_cache<float> cache(shape_of(s), {.pages = 20, .page_tokens = 8});
  hip_selector<float> selector(shape_of(s), 6, s.keys,
                               {.block_tokens = 8, .blocks = 4, .local = 1, .sinks = 1, .lists = list_of::query_head});
  auto output = test::filled<float, 4>({1, 6, 160, 13}, 7.f);
  for (index_t first = 0; first < 160; first += 32) {
    cache.append(test::tokens_of(in.key, first, 32), test::tokens_of(in.value, first, 32));
    selected_attention(test::tokens_of(in.query, first, 32), cache, selector, test::tokens_of(output, first, 32),
                       causal{});
  }
  EXPECT_TRUE(test::near(output.elements, expected.output, test::tolerance<float>(5)));
}

TEST(HipSelector, AllocatesNothingAfterTheFirstStep) {
  auto const in = test::random_inputs<float>(odd, 36);
  auto const cache = test::filled_cache<float>(in);
  hip_selector<float> selector(shape_of(odd), 6, odd.keys, {.block_tokens = 4, .blocks = 5});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7.f);
  auto const [first, again] =
      test::allocations_of_two([&] { selected_attention(in.query.view(), cache, selector, output.view()); });
  EXPECT_GE(first, 0);
  EXPECT_EQ(again, 0);
}

TEST(HipSelector, RefusesWhatDoesNotFit) {
  auto const make = [](hip_selector_options const& settings) { hip_selector<float>(shape_of(odd), 6, 100, settings); };
  expect_error("hip_selector_options: expected blocks of 1 to 536870911 tokens, got 0", [&] { make({0}); });
  expect_error("hip_selector_options: expected 0 to 536870911 blocks, got -1", [&] { make({1, -1}); });
  expect_error("hip_selector_options: expected 0 to 536870911 blocks, got -2", [&] { make({1, 1, -2}); });
  expect_error("hip_selector_options: expected 0 to 536870911 blocks, got -3", [&] { make({1, 1, 1, -3}); });
  expect_error("hip_selector_options: expected a search in at least 1 step, got 0", [&] { make({.every = 0}); });
  expect_error("query_heads: expected a multiple of 2 (the key-value heads), got 5",
               [] { hip_selector<float>(shape_of(odd), 5, 100, {}); });

  auto const in = test::random_inputs<float>(odd, 37);
  auto const cache = test::filled_cache<float>(in);
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7.f);
  hip_selector<float> small(shape_of(odd), 6, 204, {});
  expect_error("cache: expected at most 204 tokens (the capacity), got 205",
               [&] { selected_attention(in.query.view(), cache, small, output.view()); });
  hip_selector<float> other(shape_of(odd), 4, 300, {});
  expect_error("query: expected heads 4 (as the selector), got 6",
               [&] { selected_attention(in.query.view(), cache, other, output.view()); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
