// SPDX-License-Identifier: BSD-3-Clause
// A plan that is kept gives the bits of the call, run after run; it refuses what does not fit before anything is
// written; and once it has run, it allocates nothing. This program counts all allocations.
#include <attend/cache/contiguous.hpp>
#include <attend/cache/rolling.hpp>
#include <attend/cache/sequences_of.hpp>
#include <attend/call/kept_plan.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/score/bias.hpp>
#include <attend/policy/score/softcap.hpp>

#include <numeric>

#include "support/argument_errors.hpp"
#include "support/cached_tokens.hpp"
#include "support/caller_modes.hpp"
#include "support/count_allocations.hpp"

namespace attend {
using namespace options;
using namespace caches;

namespace {

using test::same_bits;

test::sizes const few{.batches = 2,
                      .query_heads = 4,
                      .key_heads = 2,
                      .value_heads = 2,
                      .queries = 5,
                      .keys = 40,
                      .key_dimension = 19,
                      .value_dimension = 12};

test::tensor<float, 4> output_of(test::sizes const& s) {
  return test::filled<float, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, 7);
}

/// A score that counts how often it was checked, and that cannot be copied.
struct counted {
  using option_kind = option::score;
  static constexpr bool may_hide = false;
  int* checks;

  explicit counted(int& count) : checks(&count) {}
  counted(counted const&) = delete;
  counted(counted&&) = default;

  void check(extend::problem_shape const&) const { ++*checks; }
  template <class T>
  auto apply(simd::vector<T> const& s, extend::score_place<T> const&) const {
    return s * simd::vector<T>(T(0.5));
  }
};

TEST(KeptPlan, HasTheBitsOfTheCall) {
  auto const first = test::random_inputs<float>(few, 1), second = test::random_inputs<float>(few, 2);
  auto expected = output_of(few), got = output_of(few);
  auto const lse = test::filled<float, 3>({2, 4, 5}, 7);
  auto expected_rows = lse, rows = lse;
  std::vector<std::int64_t> const lengths{40, 31};
  auto step = plan(first.query.view(), first.key.view(), first.value.view(), got.view(), causal{}, softcap(3),
                   padded_keys(lengths), log_sum_exp(rows.view()), threads{2});
  for (auto const* in : {&first, &second, &first}) {
    softmax_attention(in->query.view(), in->key.view(), in->value.view(), expected.view(), causal{}, softcap(3),
                      padded_keys(lengths), log_sum_exp(expected_rows.view()));
    step.run(in->query.view(), in->key.view(), in->value.view(), got.view());
    EXPECT_TRUE(same_bits(expected.elements, got.elements));
    EXPECT_TRUE(same_bits(expected_rows.elements, rows.elements));
    std::fill(got.elements.begin(), got.elements.end(), 7.f);
    step.run();
    EXPECT_TRUE(same_bits(expected.elements, got.elements));
  }
}

TEST(KeptPlan, ReadsItsOptionsOnce) {
  auto const in = test::random_inputs<float>(few, 1);
  auto out = output_of(few);
  int checks = 0;
  auto made = plan(in.query.view(), in.key.view(), in.value.view(), out.view(), counted(checks));
  auto step = std::move(made);  // and what came as a temporary goes with it
  step.run();
  step.run(in.query.view(), in.key.view(), in.value.view(), out.view());
  EXPECT_EQ(checks, 1);
}

TEST(KeptPlan, RefersToWhatHasAName) {
  auto const in = test::random_inputs<float>(few, 1);
  auto out = output_of(few), expected = output_of(few);
  window seen{3, 0};
  auto step = plan(in.query.view(), in.key.view(), in.value.view(), out.view(), seen);
  seen = window{9, 0};
  step.run();
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), expected.view(), window{9, 0});
  EXPECT_TRUE(same_bits(expected.elements, out.elements));
}

TEST(KeptPlan, HasTheSameBitsInAnyFloatingPointMode) {
  auto const q = test::of_all_sizes<float, 4>({1, 2, 20, 16}, 1), k = test::of_all_sizes<float, 4>({1, 2, 20, 16}, 2);
  test::expect_one_result([&] {
    auto y = test::filled<float, 4>({1, 2, 20, 16}, 7);
    auto step = plan(q.view(), k.view(), k.view(), y.view(), causal{});
    step.run();
    return test::bytes() << y;
  });
}

using KeptPlanErrors = test::argument_errors;

TEST_F(KeptPlanErrors, AreThoseOfTheCall) {
  expect_error("window: expected left of at least -1, got -2",
               [&] { static_cast<void>(plan(q(), k(), v(), o(), window{-2, 0})); });
}

TEST_F(KeptPlanErrors, OfTensorsOfAnotherShape) {
  auto step = plan(q(), k(), v(), o());
  auto const other = test::filled<float, 4>({2, 6, 4, 8}, 1);
  auto written = test::filled<float, 4>({2, 6, 5, 3}, 7);
  expect_error("query: expected shape [2, 6, 5, 8] (the plan's), got [2, 6, 4, 8]",
               [&] { step.run(other.view(), k(), v(), o()); });
  expect_error("value: expected shape [2, 2, 9, 4] (the plan's), got [2, 3, 9, 8]",
               [&] { step.run(q(), k(), k(), o()); });
  expect_error("output: expected shape [2, 6, 5, 4] (the plan's), got [2, 6, 5, 3]",
               [&] { step.run(q(), k(), v(), written.view()); });
  EXPECT_EQ(written.elements[0], 7);
}

TEST_F(KeptPlanErrors, OfMemoryThatIsShared) {
  auto step = plan(q(), k(), v(), o());
  test::write_view const over(output.elements.data(), {2, 6, 5, 8}, {0, 0, 0, 1});
  expect_error("output: expected memory of its own, got memory that overlaps query",
               [&] { step.run(over, k(), v(), o()); });
  // A plan that has refused tensors runs on those that it had.
  auto expected = test::filled<float, 4>({2, 6, 5, 4}, 7);
  softmax_attention(q(), k(), v(), expected.view());
  step.run();
  EXPECT_TRUE(same_bits(expected.elements, output.elements));
}

/// Decoding through a plan, and through calls, each with a cache of its own.
template <class Make, class... Options>
void expect_bits_of_calls(Make const& make, index_t together, Options const&... options) {
  auto called = make(), planned = make();
  test::sizes s = few;
  s.queries = s.keys;
  auto const in = test::random_inputs<float>(s, 1);
  auto expected = output_of(s), got = output_of(s);
  auto const part = [&](auto& all, index_t first) { return test::tokens_of(all, first, together); };
  auto step = plan(planned, part(in.query, 0), part(in.key, 0), part(in.value, 0), part(got, 0), options...);
  for (index_t first = 0; first < s.keys; first += together) {
    cached_attention(called, part(in.query, first), part(in.key, first), part(in.value, first), part(expected, first),
                     options...);
    step.run(part(in.query, first), part(in.key, first), part(in.value, first), part(got, first));
    EXPECT_EQ(planned.size(1), first + together);
  }
  EXPECT_TRUE(same_bits(expected.elements, got.elements));
}

TEST(KeptPlan, FollowsAGrowingCache) {
  auto const cache = [] { return contiguous_cache<float>({2, 2, 19, 12}, 40); };
  expect_bits_of_calls(cache, 1);
  expect_bits_of_calls(cache, 4, softcap(3), window{7, 0});
  rotary const turned(rotary_frequencies(18));
  expect_bits_of_calls(cache, 1, turned);
}

TEST(KeptPlan, TakesAWindowInChunks) {
  auto const cache = [] { return rolling_cache<float>({2, 2, 19, 12}, {3, 10}, 4); };
  expect_bits_of_calls(cache, 1);
  expect_bits_of_calls(cache, 8, softcap(3));
}

TEST(KeptPlan, OnACacheSeesWhatWasAppendedSince) {
  auto const in = test::random_inputs<float>(few, 1);
  contiguous_cache<float> cache({2, 2, 19, 12}, 40);
  cache.append(test::tokens_of(in.key, 0, 10), test::tokens_of(in.value, 0, 10));
  auto expected = output_of(few), got = output_of(few);
  auto step = plan(in.query.view(), cache, got.view(), causal{});
  for (index_t first = 10; first < 40; first += 10) {
    cache.append(test::tokens_of(in.key, first, 10), test::tokens_of(in.value, first, 10));
    softmax_attention(in.query.view(), cache, expected.view(), causal{});
    step.run();
    EXPECT_TRUE(same_bits(expected.elements, got.elements));
  }
}

TEST(KeptPlan, IsOfAnyStore) {
  auto const in = test::random_inputs<float>(few, 1);
  std::vector<int> const turned{1, 0};
  key_value_tensors<float> const all(in.key.view(), in.value.view());
  sequences_of const exchanged(all, turned);
  auto expected = output_of(few), got = output_of(few);
  auto of_tensors = plan(in.query.view(), all, got.view(), causal{});
  of_tensors.run();
  softmax_attention(in.query.view(), all, expected.view(), causal{});
  EXPECT_TRUE(same_bits(expected.elements, got.elements));
  auto of_sequences = plan(in.query.view(), exchanged, got.view(), causal{});
  of_sequences.run();
  softmax_attention(in.query.view(), exchanged, expected.view(), causal{});
  EXPECT_TRUE(same_bits(expected.elements, got.elements));
}

TEST(KeptPlan, OnACacheHasItsTensorsStillWhereARunIsRefused) {
  auto const in = test::random_inputs<float>(few, 1), others = test::random_inputs<float>(few, 2);
  auto const one = [](auto& all) { return test::tokens_of(all, 0, 1); };
  auto const none_written = [](auto const& out) {
    return std::ranges::all_of(out.elements, [](float x) { return x == 7; });
  };
  auto got = test::filled<float, 4>({2, 4, 1, 12}, 7), expected = got, refused = got;
  contiguous_cache<float> cache({2, 2, 19, 12}, 1);
  auto step = plan(cache, one(in.query), one(in.key), one(in.value), got.view());
  step.run();
  EXPECT_THROW(step.run(one(others.query), one(others.key), one(others.value), refused.view()), argument_error);
  cache.truncate(0, 0), cache.truncate(1, 0);
  step.run();
  softmax_attention(one(in.query), one(in.key), one(in.value), expected.view());
  EXPECT_TRUE(same_bits(expected.elements, got.elements));
  EXPECT_TRUE(none_written(refused));

  // A bias for two keys, and a cache that has three when the plan is given other tensors.
  auto const numbers = test::normal<float, 2>({1, 2}, 3);
  bias const added(numbers.view());
  contiguous_cache<float> longer({2, 2, 19, 12}, 3);
  for (int token = 0; token < 2; ++token) longer.append(one(in.key), one(in.value));
  auto read = plan(one(in.query), longer, got.view(), added);
  longer.append(one(in.key), one(in.value));
  EXPECT_THROW(read.run(one(others.query), refused.view()), argument_error);
  longer.truncate(0, 2), longer.truncate(1, 2);
  read.run();
  EXPECT_TRUE(none_written(refused));
}

TEST(KeptPlan, OnACacheRefusesWhatNoLongerFits) {
  auto const in = test::random_inputs<float>(few, 1);
  contiguous_cache<float> cache({2, 2, 19, 12}, 10);
  auto out = test::filled<float, 4>({2, 4, 4, 12}, 7);
  auto const numbers = test::normal<float, 2>({4, 4}, 3);
  auto const four = [&](auto& all) { return test::tokens_of(all, 0, 4); };
  // A bias for four keys, which is what the cache has after the first run.
  bias const added(numbers.view());
  auto step = plan(cache, four(in.query), four(in.key), four(in.value), out.view(), added);
  step.run();
  std::fill(out.elements.begin(), out.elements.end(), 7.f);
  EXPECT_THROW(step.run(), argument_error);
  auto full = plan(cache, four(in.query), four(in.key), four(in.value), out.view());
  full.run();
  std::fill(out.elements.begin(), out.elements.end(), 7.f);
  EXPECT_THROW(full.run(), argument_error);
  EXPECT_EQ(cache.size(0), 8);
  EXPECT_TRUE(std::ranges::all_of(out.elements, [](float x) { return x == 7; }));
}

TEST(KeptPlan, AllocatesNothingOnceItHasRun) {
  test::sizes s = few;
  s.queries = s.keys;
  auto const in = test::random_inputs<float>(s, 1);
  auto out = output_of(s);
  contiguous_cache<float> cache({2, 2, 19, 12}, 40);
  auto const part = [&](auto& all, index_t token) { return test::tokens_of(all, token, 1); };
  auto step = plan(cache, part(in.query, 0), part(in.key, 0), part(in.value, 0), part(out, 0), softcap(3));
  step.run();
  long const before = test::allocations;
  for (index_t token = 1; token < s.keys; ++token)
    step.run(part(in.query, token), part(in.key, token), part(in.value, token), part(out, token));
  // Scratch memory grows with the tokens, at most by the kinds of blocks that a call takes; no step allocates for
  // itself.
  EXPECT_LT(test::allocations - before, 8);
  cache.truncate(0, 0), cache.truncate(1, 0);
  auto const [first, second] = test::allocations_of_two([&] {
    for (index_t token = 0; token < s.keys; ++token)
      step.run(part(in.query, token), part(in.key, token), part(in.value, token), part(out, token));
    cache.truncate(0, 0), cache.truncate(1, 0);
  });
  EXPECT_EQ(first, 0);
  EXPECT_EQ(second, 0);
}

}  // namespace
}  // namespace attend
