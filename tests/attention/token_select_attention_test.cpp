// SPDX-License-Identifier: BSD-3-Clause
// TokenSelect: votes against their definition, and selections that serve again.
#include <attend/attention/softmax/rotary_embedding.hpp>
#include <attend/cache/rolling.hpp>
#include <attend/policy/position/rotary.hpp>
#include <attend/reference/token_votes.hpp>
#include <attend/select/vote_selector.hpp>

#include "support/chosen_inputs.hpp"
#include "support/count_allocations.hpp"
#include "support/selection.hpp"

namespace attend {
using namespace options;
using namespace selection;
using namespace extend;
using namespace systems;

namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;

sizes const odd{2, 6, 2, 2, 1, 205, 20, 13};

test::seen_tokens by_votes(test::inputs<double> const& in, vote_selector_options const& settings, index_t chosen) {
  test::seen_tokens seen;
  for (index_t b = 0; b < in.size.batches; ++b)
    seen.emplace_back(static_cast<std::size_t>(in.size.query_heads),
                      reference::tokens_by_votes(in.query.view(), in.key.view(), b, settings.budget.first,
                                                 settings.budget.last, chosen, settings.neighbours));
  return seen;
}

template <class S, class T>
void expect_definition(test::inputs<T> const& in, vote_selector_options choice, index_t chosen) {
  sizes const& s = in.size;
  auto const cache = test::filled_cache<S>(in);
  choice.similarity = 2;
  vote_selector<accumulation_t<T>> selector(shape_of(s), s.query_heads, s.keys, choice);
  test::expect_selection(in, cache, selector, by_votes(test::as_stored(cache, in), choice, chosen));
}
template <class T, class S>
void expect_definition(sizes const& s, vote_selector_options const& choice, index_t chosen, unsigned seed) {
  expect_definition<S>(test::random_inputs<T>(s, seed, 0.5), choice, chosen);
}

TEST(TokenSelectAttention, TakesTheTokensOfMostVotes) {
  expect_definition<float, float>(odd, {.budget = {.tokens = 40, .first = 4, .last = 9}}, 27, 1);
  expect_definition<float, float>(odd, {.budget = {.tokens = 20}}, 20, 2);
  expect_definition<float, float>(odd, {.budget = {.tokens = 5, .first = 4, .last = 9}}, 0, 3);
  expect_definition<double, double>(odd, {.budget = {.tokens = 40}}, 40, 4);
  sizes several = odd;
  several.queries = 3;
  expect_definition<float, float>(several, {.budget = {.tokens = 40, .first = 1, .last = 3}}, 36, 5);
}

TEST(TokenSelectAttention, ReadsStoredKeys) {
  expect_definition<bfloat16, bfloat16>(odd, {.budget = {.tokens = 40, .first = 4, .last = 9}}, 27, 6);
  expect_definition<bfloat16, std::int8_t>(odd, {.budget = {.tokens = 40, .first = 4, .last = 9}}, 27, 7);
}

TEST(TokenSelectAttention, MayHaveFewTokensOrNone) {
  sizes s = odd;
  for (index_t keys : {0, 1, 3, 8}) {
    s.keys = keys;
    expect_definition<float, float>(s, {.budget = {.fraction = 0}}, 0, 20);
    expect_definition<float, float>(s, {.budget = {.tokens = 50}}, keys, 21);
    expect_definition<float, float>(s, {.budget = {.tokens = 50, .first = 2, .last = 2}},
                                    std::max<index_t>(keys - 4, 0), 22);
  }
}

// One head's equal logits are equal votes.
TEST(TokenSelectAttention, TakesTheLowerOfEqualVotes) {
  expect_definition<float>(test::whole_number_inputs<float>({2, 1, 1, 1, 1, 205, 4, 13}, 23),
                           {.budget = {.tokens = 40, .first = 4, .last = 9}}, 27);
}

TEST(TokenSelectAttention, ShowsAValueWhereItIsChosen) {
  expect_definition<float>(test::with_nan_values(test::random_inputs<float>(odd, 24, 0.5)), {.budget = {.tokens = 3}},
                           3);
}

// Such a key has the least, or the most, votes of its own; those of the others stay what they are.
TEST(TokenSelectAttention, LetsNoKeySpoilTheVotesOfOthers) {
  sizes const s{1, 2, 1, 1, 1, 205, 4, 13};
  float const nan = std::numeric_limits<float>::quiet_NaN();
  for (float bad : {nan, infinity<float>, -infinity<float>}) {
    auto in = test::random_inputs<float>(s, 30, 0.5);
    for (index_t c = 0; c < 4; ++c) {
      in.query.view()(0, 0, 0, c) = in.query.view()(0, 1, 0, c) = 1;
      in.key.view()(0, 0, 150, c) = 5;
    }
    in.key.view()(0, 0, 70, 2) = bad;
    auto const cache = test::filled_cache<float>(in);
    vote_selector<float> selector(shape_of(s), 2, s.keys, {.budget = {.tokens = 2}});
    selector.select(in.query.view(), cache);
    auto const list = selector.lists()(0, 0);
    std::vector<std::int32_t> const got(list.begin(), list.end());
    EXPECT_EQ(std::count(got.begin(), got.end(), 70), bad > 0) << bad;
    // One that takes all votes leaves ties, of which the lower token is chosen.
    EXPECT_EQ(std::count(got.begin(), got.end(), 150), !(bad > 0)) << bad;
  }
}

TEST(TokenSelectAttention, OfAllTokensIsDense) {
  auto const in = test::random_inputs<float>(odd, 8);
  auto const cache = test::filled_cache<float>(in);
  vote_selector<float> selector(shape_of(odd), 6, odd.keys, {.budget = {.fraction = 1, .first = 3, .last = 5}});
  test::expect_dense(in, cache, selector);
}

TEST(TokenSelectAttention, RaisesVotesToThoseOfNeighbours) {
  auto const in = test::random_inputs<float>(odd, 9);
  auto const cache = test::filled_cache<float>(in);
  vote_selector_options const choice{.budget = {.tokens = 30}, .neighbours = 5};
  vote_selector<float> selector(shape_of(odd), 6, odd.keys, choice);
  selector.select(in.query.view(), cache);
  EXPECT_TRUE(test::lists_are(selector.lists(), by_votes(test::as_stored(cache, in), choice, 30)));
}

TEST(TokenSelectAttention, KeepsItsSelectionWhileQueriesAreAlike) {
  auto in = test::random_inputs<float>(odd, 10);
  contiguous_cache<float> cache(shape_of(odd), odd.keys);
  cache.append(test::tokens_of(in.key, 0, 200), test::tokens_of(in.value, 0, 200));
  vote_selector<float> selector(shape_of(odd), 6, odd.keys, {.budget = {.tokens = 30, .first = 2, .last = 8}});
  selector.select(in.query.view(), cache);
  EXPECT_FALSE(selector.reused(0));
  std::vector<std::int32_t> const before(selector.lists()(0, 0).begin(), selector.lists()(0, 0).end());
  cache.append(test::tokens_of(in.key, 200, 3), test::tokens_of(in.value, 200, 3));
  auto other = test::random_inputs<float>(odd, 11);
  for (std::size_t i = 0; i < in.query.elements.size() / 2; ++i) in.query.elements[i] *= 1.5f;
  for (std::size_t i = in.query.elements.size() / 2; i < in.query.elements.size(); ++i)
    in.query.elements[i] = other.query.elements[i];
  selector.select(in.query.view(), cache);
  EXPECT_TRUE(selector.reused(0));
  EXPECT_FALSE(selector.reused(1));
  auto const after = selector.lists()(0, 0);
  ASSERT_EQ(after.size(), 30u);
  EXPECT_TRUE(std::equal(before.begin(), before.end() - 8, after.begin())) << "those chosen, and the first ones";
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(after[22 + i], static_cast<std::int32_t>(195 + i));
  cache.truncate(0, 100);
  selector.select(in.query.view(), cache);
  EXPECT_FALSE(selector.reused(0)) << "the tokens it knew are gone";
}

TEST(TokenSelectAttention, PlacesTheChosenTokensOneAfterTheOther) {
  sizes s = odd;
  s.key_dimension = 16;
  auto const in = test::random_inputs<float>(s, 12);
  auto const cache = test::filled_cache<float>(in);
  vote_selector<float> selector(shape_of(s), 6, s.keys, {.budget = {.tokens = 30, .first = 2, .last = 8}});
  rotary const turn{rotary_frequencies(16)};
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  selected_attention(in.query.view(), cache, selector, output.view(), turn);
  // The chosen rows as a short sequence of their own.
  sizes few = s;
  few.keys = 30;
  auto chosen = test::random_inputs<float>(few, 1);
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 30; ++i) {
        index_t const token = selector.lists()(b, 0)[static_cast<std::size_t>(i)];
        std::copy_n(&in.key.view()(b, h, token, 0), 16, &chosen.key.view()(b, h, i, 0));
        std::copy_n(&in.value.view()(b, h, token, 0), 13, &chosen.value.view()(b, h, i, 0));
      }
  auto expected = output;
  softmax_attention(in.query.view(), std::as_const(chosen.key).view(), std::as_const(chosen.value).view(),
                    expected.view(), turn);
  EXPECT_TRUE(test::near(output.elements, expected.elements,
                         test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

TEST(TokenSelectAttention, FindsNeedles) {
  sizes const s{1, 4, 2, 2, 1, 2000, 64, 16};
  EXPECT_GE(test::needles_found(
                s, 100, [&] { return vote_selector<float>(shape_of(s), 4, s.keys, {.budget = {.fraction = 0.05}}); }),
            0.99);
}

TEST(TokenSelectAttention, AllocatesNothingOnceWarm) {
  auto const in = test::random_inputs<float>(odd, 14);
  auto const cache = test::filled_cache<float>(in);
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  for (double similarity : {0.9, 2.0}) {
    vote_selector<float> selector(
        shape_of(odd), 6, odd.keys,
        {.budget = {.tokens = 30, .first = 2, .last = 8}, .neighbours = 3, .similarity = similarity});
    auto const step = [&] { selected_attention(in.query.view(), cache, selector, output.view()); };
    step();
    EXPECT_EQ(test::allocations_of_two(step).second, 0);
  }
}

TEST(TokenSelectAttention, SaysWhatIsWrong) {
  auto const make = [](vote_selector_options const& choice) { vote_selector<float>(shape_of(odd), 6, 100, choice); };
  expect_error("choice: expected an odd number of neighbours, got 2", [&] { make({.neighbours = 2}); });
  expect_error("choice: expected a similarity, got nan", [&] { make({.similarity = std::nan("")}); });
  expect_error("budget: expected at least 0 tokens, got -1", [&] { make({.budget = {.tokens = -1}}); });
  auto const in = test::random_inputs<float>(odd, 13);
  auto const cache = test::filled_cache<float>(in);
  vote_selector<float> selector(shape_of(odd), 6, 100, {});
  expect_error("cache: expected at most 100 tokens (the capacity), got 205",
               [&] { selector.select(in.query.view(), cache); });
  vote_selector<float> fits(shape_of(odd), 6, 300, {});
  auto const heads = test::normal<float, 4>({2, 4, 1, 20}, 1), narrow = test::normal<float, 4>({2, 6, 1, 19}, 1);
  expect_error("query: expected heads 6 (as the selector), got 4", [&] { fits.select(heads.view(), cache); });
  expect_error("query: expected head dimension 20 (as the selector), got 19",
               [&] { fits.select(narrow.view(), cache); });
  expect_error("threads: expected a count of at least 0, got -1",
               [&] { fits.select(in.query.view(), cache, threads{-1}); });
  contiguous_cache<float> const sequences({1, 2, 20, 13}, 9), other({2, 3, 20, 13}, 9), wide({2, 2, 21, 13}, 9);
  expect_error("cache: expected sequences 2 (as the selector), got 1",
               [&] { fits.select(in.query.view(), sequences); });
  expect_error("cache: expected heads 2 (as the selector), got 3", [&] { fits.select(in.query.view(), other); });
  expect_error("cache: expected head dimension 20 (as the selector), got 21",
               [&] { fits.select(in.query.view(), wide); });
  rolling_cache<float> rolling(shape_of(odd), {2, 10});
  auto const one = test::normal<float, 4>({2, 2, 1, 20}, 1), its_value = test::normal<float, 4>({2, 2, 1, 13}, 1);
  for (index_t t = 0; t < 20; ++t) rolling.append(one.view(), its_value.view());
  expect_error("cache: expected stored tokens 20 (as appended), got 12",
               [&] { fits.select(in.query.view(), rolling); });
}

}  // namespace
}  // namespace attend
