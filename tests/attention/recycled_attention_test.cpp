// SPDX-License-Identifier: BSD-3-Clause
// Recycled attention and layers that share a selection: what is chosen, and who leaves as tokens come.
#include <attend/attention/sparse_decode/recycled_attention.hpp>
#include <attend/cache/rolling.hpp>

#include "support/chosen_inputs.hpp"
#include "support/count_allocations.hpp"
#include "support/selection.hpp"

namespace attend {
using namespace options;
using namespace selection;
using namespace systems;

namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;

sizes const odd{2, 6, 2, 2, 1, 120, 20, 13};

/// Tokens by the sum of a group's weights, the largest first; [batch][list].
std::vector<std::vector<std::vector<index_t>>> by_weights(test::inputs<float> const& in, index_t tokens,
                                                          index_t heads_per_group) {
  reference::options with;
  with.key_length = [=](index_t) { return tokens; };
  auto result = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  std::vector<std::vector<std::vector<index_t>>> ranking;
  for (index_t b = 0; b < in.size.batches; ++b) {
    ranking.emplace_back();
    for (index_t h = 0; h < in.size.query_heads; h += heads_per_group) {
      std::vector<double> score(static_cast<std::size_t>(tokens), 0.0);
      for (index_t j = 0; j < tokens; ++j)
        for (index_t i = 0; i < heads_per_group; ++i)
          score[static_cast<std::size_t>(j)] += result.weight(b, h + i, 0, j);
      std::vector<index_t> order(static_cast<std::size_t>(tokens));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](index_t x, index_t y) {
        return score[static_cast<std::size_t>(x)] > score[static_cast<std::size_t>(y)];
      });
      ranking.back().push_back(order);
    }
  }
  return ranking;
}

/// The best of a ranking and some tokens that came after it, for each query head.
test::seen_tokens seen_of(std::vector<std::vector<std::vector<index_t>>> const& ranking, index_t best, index_t from,
                          index_t to, index_t all, index_t heads_per_group) {
  test::seen_tokens seen;
  for (auto const& lists : ranking) {
    seen.emplace_back();
    for (auto const& list : lists) {
      std::vector<bool> sees(static_cast<std::size_t>(all), false);
      for (index_t i = 0; i < best; ++i) sees[static_cast<std::size_t>(list[static_cast<std::size_t>(i)])] = true;
      for (index_t t = from; t < to; ++t) sees[static_cast<std::size_t>(t)] = true;
      for (index_t i = 0; i < heads_per_group; ++i) seen.back().push_back(sees);
    }
  }
  return seen;
}

/// Of a weighted mean of these values.
double allowed(test::inputs<float> const& in) {
  return test::tolerance<float>(test::largest_magnitude(in.value.elements));
}

TEST(RecycledAttention, AttendsToWhatTheFullStepLookedAtMost) {
  for (list_of lists : {list_of::key_value_head, list_of::query_head}) {
    auto const in = test::random_inputs<float>(odd, 1);
    index_t const group_size = lists == list_of::query_head ? 1 : 3;
    contiguous_cache<float> cache(shape_of(odd), odd.keys);
    cache.append(test::tokens_of(in.key, 0, 100), test::tokens_of(in.value, 0, 100));
    recycled_selector<float> selector(shape_of(odd), 6, odd.keys, {.budget = {.tokens = 12}, .lists = lists},
                                      {.every = 6});
    auto output = test::filled<float, 4>({2, 6, 1, 13}, 7), dense = output;
    auto const ranking = by_weights(in, 100, group_size);
    for (index_t step = 0; step < 7; ++step) {
      index_t const size = 100 + step;
      recycled_attention(in.query.view(), cache, selector, output.view());
      if (step == 0 || step == 6) {
        decode_attention(in.query.view(), cache, dense.view());
        EXPECT_TRUE(test::near(output.elements, dense.elements, allowed(in))) << "a full step";
      } else {
        auto const seen = seen_of(ranking, 12 - step, 100, size, odd.keys, group_size);
        EXPECT_TRUE(test::lists_are(selector.lists(), seen));
        auto const expected = test::attention_to(test::as_stored<float, float>(in), seen);
        EXPECT_TRUE(test::near(output.elements, expected.output, allowed(in)));
      }
      cache.append(test::tokens_of(in.key, size, 1), test::tokens_of(in.value, size, 1));
    }
  }
}

TEST(RecycledAttention, BeginsAnewWhereTheQueryHasChanged) {
  auto const in = test::random_inputs<float>(odd, 2), other = test::random_inputs<float>(odd, 3);
  recycled_selector<float> selector(shape_of(odd), 6, odd.keys, {}, {.every = 100, .similarity = 0.8});
  EXPECT_TRUE(selector.begins_anew(in.query.view()));
  EXPECT_FALSE(selector.begins_anew(in.query.view()));
  EXPECT_TRUE(selector.begins_anew(other.query.view()));
  EXPECT_FALSE(selector.begins_anew(other.query.view()));
}

TEST(RecycledAttention, OfAllTokensIsDense) {
  auto const in = test::random_inputs<float>(odd, 4);
  contiguous_cache<float> cache(shape_of(odd), odd.keys);
  cache.append(test::tokens_of(in.key, 0, 100), test::tokens_of(in.value, 0, 100));
  recycled_selector<float> selector(shape_of(odd), 6, odd.keys, {.budget = {.fraction = 1}});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7), dense = output;
  recycled_attention(in.query.view(), cache, selector, output.view());
  recycled_attention(in.query.view(), cache, selector, output.view(), threads{2});
  decode_attention(in.query.view(), cache, dense.view());
  EXPECT_TRUE(test::near(output.elements, dense.elements, allowed(in)));
}

TEST(LayerReuseAttention, TakesTheListsOfTheLastFullLayer) {
  auto const in = test::random_inputs<float>(odd, 5), next = test::random_inputs<float>(odd, 6);
  auto const cache = test::filled_cache<float>(in), next_cache = test::filled_cache<float>(next);
  weight_selector<float> selector(shape_of(odd), 6, odd.keys, {.budget = {.tokens = 30, .first = 2, .last = 5}});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7), dense = output;
  hylra_attention(in.query.view(), cache, selector, true, output.view());
  decode_attention(in.query.view(), cache, dense.view());
  EXPECT_TRUE(test::near(output.elements, dense.elements, allowed(in)));
  hylra_attention(next.query.view(), next_cache, selector, false, output.view());
  test::seen_tokens seen;
  for (index_t b = 0; b < 2; ++b) {
    seen.emplace_back();
    for (index_t h = 0; h < 6; ++h) {
      std::vector<bool> sees(120, false);
      EXPECT_EQ(selector.lists().size(b, h / 3), 30);
      for (index_t token : selector.lists()(b, h / 3)) sees[static_cast<std::size_t>(token)] = true;
      seen.back().push_back(sees);
    }
  }
  auto const expected = test::attention_to(test::as_stored<float, float>(next), seen);
  EXPECT_TRUE(test::near(output.elements, expected.output, allowed(next)));
}

/// The weights that whoever chose them summed up, the largest first: with the first and the last tokens in any case.
TEST(LayerReuseAttention, ChoosesBetweenTheFirstAndTheLastTokens) {
  auto const in = test::random_inputs<float>(odd, 20);
  auto const cache = test::filled_cache<float>(in);
  auto const ranking = by_weights(in, odd.keys, 3);
  for (index_t budget : {0, 7, 30, 119, 120, 500}) {
    weight_selector<float> selector(shape_of(odd), 6, odd.keys,
                                    {.budget = {.tokens = budget, .fraction = 0, .first = 2, .last = 5}});
    auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
    hylra_attention(in.query.view(), cache, selector, true, output.view());
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 2; ++h) {
        std::vector<std::int32_t> expected{0, 1, 115, 116, 117, 118, 119};
        auto const wanted = static_cast<std::size_t>(std::clamp<index_t>(budget, 7, odd.keys));
        for (index_t token : ranking[static_cast<std::size_t>(b)][static_cast<std::size_t>(h)])
          if (token >= 2 && token < 115 && expected.size() < wanted)
            expected.push_back(static_cast<std::int32_t>(token));
        std::sort(expected.begin(), expected.end());
        auto const list = selector.lists()(b, h);
        EXPECT_TRUE(std::equal(list.begin(), list.end(), expected.begin(), expected.end())) << budget;
      }
  }
}

TEST(LayerReuseAttention, MayScoreByTheLargestWeight) {
  auto const in = test::random_inputs<float>(odd, 21);
  auto const cache = test::filled_cache<float>(in);
  auto all = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), {});
  weight_selector<float> selector(shape_of(odd), 6, odd.keys, {.budget = {.tokens = 12}, .score = score_of::largest});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  hylra_attention(in.query.view(), cache, selector, true, output.view());
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h) {
      auto const score = [&](index_t j) {
        return std::max({all.weight(b, 3 * h, 0, j), all.weight(b, 3 * h + 1, 0, j), all.weight(b, 3 * h + 2, 0, j)});
      };
      std::vector<index_t> order(120);
      std::iota(order.begin(), order.end(), index_t{0});
      std::stable_sort(order.begin(), order.end(), [&](index_t x, index_t y) { return score(x) > score(y); });
      order.resize(12);
      std::sort(order.begin(), order.end());
      auto const list = selector.lists()(b, h);
      EXPECT_TRUE(std::equal(list.begin(), list.end(), order.begin(), order.end()));
    }
}

// With one query head, equal logits are equal weights.
TEST(RecycledAttention, TakesTheLowerOfEqualWeights) {
  auto const in = test::whole_number_inputs<float>({2, 1, 1, 1, 1, 120, 4, 13}, 22);
  auto const cache = test::filled_cache<float>(in);
  recycled_selector<float> selector(shape_of(in.size), 1, 120, {.budget = {.tokens = 31}});
  auto output = test::filled<float, 4>({2, 1, 1, 13}, 7);
  recycled_attention(in.query.view(), cache, selector, output.view());
  EXPECT_TRUE(test::lists_are(selector.lists(), seen_of(by_weights(in, 120, 1), 31, 120, 120, 120, 1)));
}

TEST(RecycledAttention, ShowsAValueWhereItIsChosen) {
  auto const in = test::with_nan_values(test::random_inputs<float>(odd, 23));
  auto const cache = test::filled_cache<float>(in);
  recycled_selector<float> selector(shape_of(odd), 6, odd.keys, {.budget = {.tokens = 6}});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  recycled_attention(in.query.view(), cache, selector, output.view());
  recycled_attention(in.query.view(), cache, selector, output.view());
  auto const expected =
      test::attention_to(test::as_stored<float, float>(in), seen_of(by_weights(in, 120, 3), 6, 120, 120, 120, 3));
  EXPECT_TRUE(test::near(output.elements, expected.output, test::tolerance<float>(5)));
}

TEST(RecycledAttention, GivesTheSameBitsForAnyThreads) {
  auto const in = test::random_inputs<float>(odd, 24);
  auto const run = [&](auto executor) {
    contiguous_cache<float> cache(shape_of(odd), odd.keys);
    cache.append(test::tokens_of(in.key, 0, 100), test::tokens_of(in.value, 0, 100));
    recycled_selector<float> selector(shape_of(odd), 6, odd.keys, {.budget = {.tokens = 12}}, {.every = 3});
    std::vector<float> all;
    auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
    for (index_t step = 0; step < 7; ++step) {
      recycled_attention(in.query.view(), cache, selector, output.view(), executor);
      all.insert(all.end(), output.elements.begin(), output.elements.end());
      cache.append(test::tokens_of(in.key, 100 + step, 1), test::tokens_of(in.value, 100 + step, 1));
    }
    return all;
  };
  auto const alone = run(serial{});
  EXPECT_TRUE(test::same_bits(alone, run(threads{2})));
  EXPECT_TRUE(test::same_bits(alone, run(threads{5})));
}

TEST(LayerReuseAttention, GivesTheSameBitsForAnyThreads) {
  auto const in = test::random_inputs<float>(odd, 25);
  auto const cache = test::filled_cache<float>(in);
  auto const run = [&](auto executor) {
    weight_selector<float> selector(shape_of(odd), 6, odd.keys, {.budget = {.tokens = 30, .first = 2, .last = 5}});
    auto full = test::filled<float, 4>({2, 6, 1, 13}, 7), reused = full;
    hylra_attention(in.query.view(), cache, selector, true, full.view(), executor);
    hylra_attention(in.query.view(), cache, selector, false, reused.view(), executor);
    full.elements.insert(full.elements.end(), reused.elements.begin(), reused.elements.end());
    return full.elements;
  };
  EXPECT_TRUE(test::same_bits(run(serial{}), run(threads{3})));
}

// What the full step finds serves those after it.
TEST(RecycledAttention, FindsNeedles) {
  sizes const s{1, 4, 2, 2, 1, 2000, 64, 16};
  int found = 0;
  for (unsigned trial = 0; trial < 100; ++trial) {
    auto in = test::random_inputs<float>(s, trial);
    index_t const needle = test::plant_needle(in, trial);
    auto const cache = test::filled_cache<float>(in);
    recycled_selector<float> selector(shape_of(s), 4, s.keys, {.budget = {.fraction = 0.05}});
    auto output = test::filled<float, 4>({1, 4, 1, 16}, 7);
    recycled_attention(std::as_const(in.query).view(), cache, selector, output.view());
    found += test::lists_have(selector.lists(), needle);
  }
  EXPECT_GE(found, 99);
}

TEST(LayerReuseAttention, OfAllTokensIsDense) {
  auto const in = test::random_inputs<float>(odd, 26);
  auto const cache = test::filled_cache<float>(in);
  weight_selector<float> selector(shape_of(odd), 6, odd.keys, {.budget = {.fraction = 1}});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7), dense = output;
  hylra_attention(in.query.view(), cache, selector, true, output.view());
  hylra_attention(in.query.view(), cache, selector, false, output.view());
  decode_attention(in.query.view(), cache, dense.view());
  EXPECT_TRUE(test::near(output.elements, dense.elements, allowed(in)));
}

TEST(RecycledAttention, BeginsAnewWhereTheCacheWasCut) {
  auto const in = test::random_inputs<float>(odd, 31);
  auto cache = test::filled_cache<float>(in);
  recycled_selector<float> selector(shape_of(odd), 6, odd.keys, {.budget = {.tokens = 12}}, {.every = 50});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7), dense = output;
  recycled_attention(in.query.view(), cache, selector, output.view());
  cache.truncate(1, 40);
  recycled_attention(in.query.view(), cache, selector, output.view());
  decode_attention(in.query.view(), cache, dense.view());
  EXPECT_TRUE(test::near(output.elements, dense.elements, allowed(in))) << "a full step";
  EXPECT_EQ(selector.lists().size(1, 0), 12);
  EXPECT_LT(selector.lists()(1, 0).back(), 40);
  EXPECT_FALSE(selector.begins_anew(in.query.view()));
}

TEST(RecycledAttention, AllocatesNothingOnceWarm) {
  auto const in = test::random_inputs<float>(odd, 7);
  auto const cache = test::filled_cache<float>(in);
  recycled_selector<float> selector(shape_of(odd), 6, odd.keys, {.budget = {.tokens = 12}}, {.every = 2});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  auto const two_steps = [&] {
    recycled_attention(in.query.view(), cache, selector, output.view());
    recycled_attention(in.query.view(), cache, selector, output.view());
  };
  two_steps();
  EXPECT_EQ(test::allocations_of_two(two_steps).second, 0);
}

TEST(RecycledAttention, SaysWhatIsWrong) {
  expect_error("recycled_options: expected a full step in at least 1, got 0",
               [] { recycled_selector<float>(shape_of(odd), 6, 10, {}, {.every = 0}); });
  auto const in = test::random_inputs<float>(odd, 8);
  auto const cache = test::filled_cache<float>(in);
  weight_selector<float> narrow(shape_of(odd), 6, 100, {}), selector(shape_of(odd), 6, 200, {});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  expect_error("cache: expected at most 100 tokens (the capacity), got 120",
               [&] { hylra_attention(in.query.view(), cache, narrow, true, output.view()); });
  hylra_attention(in.query.view(), cache, selector, true, output.view());
  contiguous_cache<float> const empty(shape_of(odd), 5);
  expect_error("cache: expected at least 120 tokens (of the last selection), got 0",
               [&] { hylra_attention(in.query.view(), empty, selector, false, output.view()); });
  rolling_cache<float> rolling(shape_of(odd), {2, 10});
  auto const one = test::normal<float, 4>({2, 2, 1, 20}, 1), its_value = test::normal<float, 4>({2, 2, 1, 13}, 1);
  for (index_t t = 0; t < 20; ++t) rolling.append(one.view(), its_value.view());
  for (bool full : {false, true})
    expect_error("cache: expected stored tokens 20 (as appended), got 12",
                 [&] { hylra_attention(in.query.view(), rolling, selector, full, output.view()); });
}

TEST(RecycledAttention, CountsNoStepThatWasRefused) {
  auto const in = test::random_inputs<float>(odd, 9);
  auto const cache = test::filled_cache<float>(in);
  recycled_selector<float> selector(shape_of(odd), 6, 120, {.budget = {.tokens = 5}}),
      narrow(shape_of(odd), 6, 100, {});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7), wide = test::filled<float, 4>({2, 6, 1, 14}, 7),
       dense = output;
  auto const two = test::normal<float, 4>({2, 6, 2, 20}, 1), heads = test::normal<float, 4>({2, 4, 1, 20}, 1);
  auto both = test::filled<float, 4>({2, 6, 2, 13}, 7), few = test::filled<float, 4>({2, 4, 1, 13}, 7);
  auto const step = [&](auto& chooser, auto const& query, auto& to, auto const&... options) {
    recycled_attention(query.view(), cache, chooser, to.view(), options...);
  };
  expect_error("output: expected head dimension 13 (as the cache), got 14", [&] { step(selector, in.query, wide); });
  expect_error("query: expected at most 1 tokens (the selector), got 2", [&] { step(selector, two, both); });
  expect_error("query: expected heads 6 (as the selector), got 4", [&] { step(selector, heads, few); });
  test::expect_scale_error([&](scale const& factor) { step(selector, in.query, output, factor); });
  expect_error("threads: expected a count of at least 0, got -1",
               [&] { step(selector, in.query, output, threads{-1}); });
  expect_error("cache: expected at most 100 tokens (the capacity), got 120", [&] { step(narrow, in.query, output); });
  expect_error("recycled_options: expected a similarity, got nan",
               [] { recycled_selector<float>(shape_of(odd), 6, 10, {}, {.similarity = std::nan("")}); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
  step(selector, in.query, output);
  decode_attention(in.query.view(), cache, dense.view());
  EXPECT_TRUE(test::near(output.elements, dense.elements, allowed(in))) << "the first step that is taken is full";
}

}  // namespace
}  // namespace attend
