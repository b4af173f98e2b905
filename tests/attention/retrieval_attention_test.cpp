// SPDX-License-Identifier: BSD-3-Clause
// RetrievalAttention: resident tokens and those of an exact index, merged, against one softmax over both.
#include <attend/attention/sparse_decode/retrieval_attention.hpp>
#include <attend/cache/rolling.hpp>

#include "support/chosen_inputs.hpp"
#include "support/count_allocations.hpp"
#include "support/selection.hpp"

namespace attend {
using namespace systems;

namespace {

using test::expect_error;
using test::shape_of;
using test::sizes;

sizes const odd{2, 6, 2, 2, 1, 205, 20, 13};

template <class S, class T>
void expect_definition(test::inputs<T> const& in, retrieval_options const& choice) {
  auto const cache = test::filled_cache<S>(in);
  auto const stored = test::as_stored(cache, in);
  reference::page_rule const rule{.score = reference::last_of_page,
                                  .page_tokens = 1,
                                  .first_tokens = choice.first,
                                  .last_tokens = choice.last,
                                  .pages = choice.tokens};
  auto const seen = reference::select_pages(stored.query.view(), stored.key.view(), rule);
  sizes const& s = in.size;
  retrieval_selector<> selector(shape_of(s), s.query_heads, s.keys, choice);
  auto output = test::filled<T, 4>({s.batches, s.query_heads, 1, 13}, T(7)), threaded = output;
  retrieval_attention(in.query.view(), cache, selector, output.view());
  double const largest = test::largest_magnitude(stored.value.elements);
  double const merged = std::same_as<T, accumulation_t<T>> ? 0 : test::unit_roundoff<T>() * largest;
  EXPECT_TRUE(
      test::near(output.elements, test::attention_to(stored, seen).output, test::tolerance<T>(largest) + merged));
  retrieval_attention(in.query.view(), cache, selector, threaded.view(), threads{2});
  EXPECT_TRUE(test::same_bits(output.elements, threaded.elements));
}
template <class T, class S>
void expect_definition(retrieval_options const& choice, unsigned seed) {
  expect_definition<S>(test::random_inputs<T>(odd, seed), choice);
}

TEST(RetrievalAttention, IsTheSoftmaxOverResidentAndRetrievedTokens) {
  expect_definition<float, float>({.first = 4, .last = 20, .tokens = 30}, 1);
  expect_definition<float, float>({.first = 0, .last = 1, .tokens = 1}, 2);
  expect_definition<float, float>({.first = 100, .last = 200, .tokens = 5}, 3);
  expect_definition<float, float>({.first = 3, .last = 5, .tokens = 1000}, 4);
  expect_definition<bfloat16, bfloat16>({.first = 4, .last = 20, .tokens = 30}, 5);
  expect_definition<bfloat16, std::int8_t>({.first = 4, .last = 20, .tokens = 30}, 6);
}

TEST(RetrievalAttention, MayHaveNothingOfEither) {
  expect_definition<float, float>({.first = 0, .last = 0, .tokens = 9}, 20);
  expect_definition<float, float>({.first = 4, .last = 20, .tokens = 0}, 21);
  expect_definition<float, float>({.first = 0, .last = 0, .tokens = 0}, 22);
}

TEST(RetrievalAttention, TakesTheLowerOfEqualTokens) {
  sizes few = odd;
  few.key_dimension = 3;
  expect_definition<float>(test::whole_number_inputs<float>(few, 23), {.first = 4, .last = 20, .tokens = 50});
}

TEST(RetrievalAttention, ShowsAValueToThoseThatFoundIt) {
  expect_definition<float>(test::with_nan_values(test::random_inputs<float>(odd, 24)), {.tokens = 20});
  sizes one = odd;
  one.query_heads = one.key_heads = one.value_heads = 1;
  expect_definition<float>(test::with_nan_values(test::random_inputs<float>(one, 25)),
                           {.first = 2, .last = 1, .tokens = 20});
}

TEST(RetrievalAttention, OfAllTokensIsDense) {
  auto const in = test::random_inputs<float>(odd, 26);
  auto const cache = test::filled_cache<float>(in);
  retrieval_selector<> selector(shape_of(odd), 6, odd.keys, {.first = 4, .last = 20, .tokens = odd.keys});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7), dense = output;
  retrieval_attention(in.query.view(), cache, selector, output.view());
  decode_attention(in.query.view(), cache, dense.view());
  EXPECT_TRUE(test::near(output.elements, dense.elements, test::tolerance<float>(5)));
}

TEST(RetrievalAttention, FindsNeedles) {
  sizes const s{1, 4, 2, 2, 1, 2000, 64, 16};
  EXPECT_GE(
      test::needles_found(
          s, 100, [&] { return retrieval_selector<>(shape_of(s), 4, s.keys, {.first = 0, .last = 0, .tokens = 100}); }),
      0.99);
}

TEST(RetrievalAttention, AllocatesNothingOnceWarm) {
  auto const in = test::random_inputs<float>(odd, 7);
  auto const cache = test::filled_cache<float>(in);
  retrieval_selector<> selector(shape_of(odd), 6, odd.keys, {.first = 4, .last = 20, .tokens = 30});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  auto const step = [&] { retrieval_attention(in.query.view(), cache, selector, output.view()); };
  step();
  EXPECT_EQ(test::allocations_of_two(step).second, 0);
}

TEST(RetrievalAttention, TakesNumbersBeyondTheSequence) {
  auto const in = test::random_inputs<float>(odd, 9);
  auto const cache = test::filled_cache<float>(in);
  index_t const most = std::numeric_limits<index_t>::max();
  retrieval_selector<> selector(shape_of(odd), 6, odd.keys, {.first = most, .last = most, .tokens = most});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7), dense = output;
  retrieval_attention(in.query.view(), cache, selector, output.view());
  decode_attention(in.query.view(), cache, dense.view());
  EXPECT_TRUE(test::near(output.elements, dense.elements, test::tolerance<float>(5)));
}

TEST(RetrievalAttention, SaysWhatIsWrong) {
  expect_error("choice: expected at least 0 tokens, got -1",
               [] { retrieval_selector<>(shape_of(odd), 6, 10, {.tokens = -1}); });
  auto const in = test::random_inputs<float>(odd, 8);
  auto const cache = test::filled_cache<float>(in);
  retrieval_selector<> selector(shape_of(odd), 6, 100, {});
  auto output = test::filled<float, 4>({2, 6, 1, 13}, 7);
  expect_error("cache: expected at most 100 tokens (the capacity), got 205",
               [&] { retrieval_attention(in.query.view(), cache, selector, output.view()); });
  rolling_cache<float> rolling(shape_of(odd), {2, 10});
  auto const one = test::normal<float, 4>({2, 2, 1, 20}, 1), its_value = test::normal<float, 4>({2, 2, 1, 13}, 1);
  for (index_t t = 0; t < 20; ++t) rolling.append(one.view(), its_value.view());
  expect_error("cache: expected stored tokens 20 (as appended), got 12",
               [&] { retrieval_attention(in.query.view(), rolling, selector, output.view()); });
  retrieval_selector<> wide(shape_of(odd), 6, 300, {});
  test::expect_scale_error(
      [&](scale const& factor) { retrieval_attention(in.query.view(), cache, wide, output.view(), factor); });
  expect_error("threads: expected a count of at least 0, got -1",
               [&] { retrieval_attention(in.query.view(), cache, wide, output.view(), threads{-1}); });
  auto const two = test::normal<float, 4>({2, 6, 2, 20}, 1);
  auto both = test::filled<float, 4>({2, 6, 2, 13}, 7);
  expect_error("query: expected tokens 1 (as a decoding step), got 2",
               [&] { retrieval_attention(two.view(), cache, wide, both.view()); });
  auto const heads = test::normal<float, 4>({2, 4, 1, 20}, 1);
  auto few = test::filled<float, 4>({2, 4, 1, 13}, 7);
  expect_error("query: expected heads 6 (as the selector), got 4",
               [&] { retrieval_attention(heads.view(), cache, selector, few.view()); });
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
