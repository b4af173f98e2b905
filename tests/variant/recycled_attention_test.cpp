// Recycled attention and layers that share a selection: what is chosen, and who leaves as tokens come.
#include <attend/variant/recycled_attention.hpp>

#include "support/count_allocations.hpp"
#include "support/selection.hpp"

namespace attend {
namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;

sizes const odd{2, 6, 2, 2, 1, 120, 20, 13};

/// Tokens by the sum of a group's weights, the largest first; [batch][list].
std::vector<std::vector<std::vector<index_t>>> by_weights(test::inputs<float> const& in, index_t tokens,
                                                          index_t heads_together) {
  reference::options with;
  with.key_length = [=](index_t) { return tokens; };
  auto result = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  std::vector<std::vector<std::vector<index_t>>> ranking;
  for (index_t b = 0; b < in.size.batches; ++b) {
    ranking.emplace_back();
    for (index_t h = 0; h < in.size.query_heads; h += heads_together) {
      std::vector<double> score(static_cast<std::size_t>(tokens), 0.0);
      for (index_t j = 0; j < tokens; ++j)
        for (index_t i = 0; i < heads_together; ++i)
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
                          index_t to, index_t all, index_t heads_together) {
  test::seen_tokens seen;
  for (auto const& lists : ranking) {
    seen.emplace_back();
    for (auto const& list : lists) {
      std::vector<bool> sees(static_cast<std::size_t>(all), false);
      for (index_t i = 0; i < best; ++i) sees[static_cast<std::size_t>(list[static_cast<std::size_t>(i)])] = true;
      for (index_t t = from; t < to; ++t) sees[static_cast<std::size_t>(t)] = true;
      for (index_t i = 0; i < heads_together; ++i) seen.back().push_back(sees);
    }
  }
  return seen;
}

TEST(RecycledAttention, AttendsToWhatTheFullStepLookedAtMost) {
  for (list_of lists : {list_of::key_value_head, list_of::query_head}) {
    auto const in = test::random_inputs<float>(odd, 1);
    index_t const together = lists == list_of::query_head ? 1 : 3;
    contiguous_cache<float> cache(shape_of(odd), odd.keys);
    cache.append(test::tokens_of(in.key, 0, 100), test::tokens_of(in.value, 0, 100));
    recycled_selector<float> selector(shape_of(odd), 6, odd.keys, {.budget = {.tokens = 12}, .lists = lists},
                                      {.every = 6});
    auto output = test::filled<float, 4>({2, 6, 1, 13}, 7), dense = output;
    auto const ranking = by_weights(in, 100, together);
    for (index_t step = 0; step < 7; ++step) {
      index_t const size = 100 + step;
      recycled_attention(in.query.view(), cache, selector, output.view());
      if (step == 0 || step == 6) {
        decode_attention(in.query.view(), cache, dense.view());
        EXPECT_TRUE(test::near(output.elements, dense.elements, 1e-5)) << "a full step";
      } else {
        auto const seen = seen_of(ranking, 12 - step, 100, size, odd.keys, together);
        EXPECT_TRUE(test::lists_are(selector.lists(), seen));
        auto const expected = test::attention_to(test::as_stored<float, float>(in), seen);
        EXPECT_TRUE(test::near(output.elements, expected.output,
                               test::tolerance<float>(test::largest_magnitude(in.value.elements))));
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
  EXPECT_TRUE(test::near(output.elements, dense.elements, 1e-5));
}

TEST(LayerReuseAttention, TakesTheListsOfTheLastFullLayer) {
  auto const in = test::random_inputs<float>(odd, 5), next = test::random_inputs<float>(odd, 6);
  auto const cache = test::filled_cache<float>(in), next_cache = test::filled_cache<float>(next);
  weight_selector<float> selector(shape_of(odd), 6, odd.keys, {.budget = {.tokens = 30, .first = 2, .last = 5}});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7), dense = output;
  layer_reuse_attention(in.query.view(), cache, selector, true, output.view());
  decode_attention(in.query.view(), cache, dense.view());
  EXPECT_TRUE(test::near(output.elements, dense.elements, 1e-5));
  layer_reuse_attention(next.query.view(), next_cache, selector, false, output.view());
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
  EXPECT_TRUE(test::near(output.elements, expected.output, 1e-4));
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
  expect_error("recycling: expected a full step in at least 1, got 0",
               [] { recycled_selector<float>(shape_of(odd), 6, 10, {}, {.every = 0}); });
  auto const in = test::random_inputs<float>(odd, 8);
  auto const cache = test::filled_cache<float>(in);
  weight_selector<float> narrow(shape_of(odd), 6, 100, {}), selector(shape_of(odd), 6, 200, {});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  expect_error("cache: expected at most 100 tokens (the capacity), got 120",
               [&] { layer_reuse_attention(in.query.view(), cache, narrow, true, output.view()); });
  layer_reuse_attention(in.query.view(), cache, selector, true, output.view());
  contiguous_cache<float> const empty(shape_of(odd), 5);
  expect_error("cache: expected from 120 to 200 tokens, got 0",
               [&] { layer_reuse_attention(in.query.view(), empty, selector, false, output.view()); });
}

}  // namespace
}  // namespace attend
