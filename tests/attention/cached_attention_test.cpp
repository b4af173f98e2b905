// SPDX-License-Identifier: BSD-3-Clause
// A sequence that goes through a cache in any pieces gives what attention to the whole of it gives: caches that keep
// everything, and caches that keep sinks and a window.
#include <attend/cache/head_policy.hpp>
#include <attend/cache/paged.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/score/alibi.hpp>
#include <attend/policy/score/softcap.hpp>

#include "support/cached_tokens.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace extend;

namespace {

using test::shape_of;
using test::sizes;

sizes const small{.batches = 2,
                  .query_heads = 4,
                  .key_heads = 2,
                  .value_heads = 2,
                  .queries = 40,
                  .keys = 40,
                  .key_dimension = 20,
                  .value_dimension = 13};
// Longer than a block of keys, with values that need no padding.
sizes const longer{.query_heads = 6,
                   .key_heads = 3,
                   .value_heads = 3,
                   .queries = 300,
                   .keys = 300,
                   .key_dimension = 16,
                   .value_dimension = 16};

reference::options seeing(reference::visible_function visible) {
  reference::options with;
  with.visible = std::move(visible);
  return with;
}

template <class T>
class CachedAttention : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(CachedAttention, Elements);

TYPED_TEST(CachedAttention, SeesAllThatAPagedCacheTook) {
  for (index_t page_tokens : {1, 7, 128})
    for (sizes const& s : {small, longer})
      test::expect_any_cut<TypeParam>(
          [&] {
            index_t const pages = s.batches * divide_up(s.keys, page_tokens);
            return paged_cache<TypeParam>(shape_of(s), {.pages = pages, .page_tokens = page_tokens});
          },
          s, 1, seeing(reference::causal_bottom_right()));
}

TYPED_TEST(CachedAttention, SeesAllThatAContiguousCacheTook) {
  for (sizes const& s : {small, longer})
    test::expect_any_cut<TypeParam>([&] { return contiguous_cache<TypeParam>(shape_of(s), s.keys); }, s, 1,
                                    seeing(reference::causal_bottom_right()));
}

TYPED_TEST(CachedAttention, SeesSinksAndWindowOfARollingCache) {
  for (index_t sinks : {0, 3})
    for (index_t window : {1, 10, 140})
      for (index_t chunk : {1, 5, 64})
        for (sizes const& s : {small, longer})
          test::expect_any_cut<TypeParam>([&] { return rolling_cache<TypeParam>(shape_of(s), {sinks, window}, chunk); },
                                          s, 2, seeing([=](reference::place const& at) {
                                            return at.key <= at.position() &&
                                                   (at.key < sinks || at.position() - at.key < window);
                                          }));
}

TEST(CachedAttentionByHead, SeesWhatEachHeadKeeps) {
  std::vector<std::int32_t> const kinds{1, 0, 1};
  for (index_t chunk : {1, 33}) {
    cache_shape full = shape_of(longer), streamed = full;
    full.key_value_heads = 1;
    streamed.key_value_heads = 2;
    test::expect_any_cut<float>(
        [&] {
          return head_policy_cache(paged_cache<float>(full, {.pages = 20, .page_tokens = 16}),
                                   rolling_cache<float>(streamed, {4, 50}, chunk), kinds);
        },
        longer, 3, seeing([](reference::place const& at) {
          bool const retrieves = at.head / 2 == 1;
          return at.key <= at.position() && (retrieves || at.key < 4 || at.position() - at.key < 50);
        }));
  }
}

// Positions are those of the text, also where tokens between have been dropped.
TEST(CachedAttentionWithPolicies, AppliesThemToPositionsOfTheText) {
  std::vector<float> const slopes{0.5f, 0.25f, 0.125f, 0.0625f};
  reference::options with = seeing([](reference::place const& at) {
    return at.key <= at.position() && (at.key < 2 || at.position() - at.key < 9) && at.key % 5 != 0;
  });
  with.scores = {[](double s, reference::place const&) { return 3 * std::tanh(s / 3); },
                 [&](double s, reference::place const& at) {
                   return s - static_cast<double>(slopes[static_cast<std::size_t>(at.head)] *
                                                  static_cast<float>(at.position() - at.key));
                 }};
  sizes s = small;
  auto const in = test::random_inputs<float>(s, 4);
  auto const expected = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  rolling_cache<float> cache(shape_of(s), {2, 9}, 6);
  auto const got = test::in_pieces(
      cache, in, [] { return 6; }, mask([](auto const&, auto const& key) { return key % 5 != 0; }), softcap{3.f},
      alibi(slopes));
  EXPECT_TRUE(
      test::near(got.elements, expected.output, test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

// A cache with sequences of different lengths, and further outputs.
TEST(SoftmaxAttentionToACache, TakesEachSequenceAtItsOwnLength) {
  sizes const s = small;
  auto const in = test::random_inputs<float>(s, 5);
  paged_cache<float> cache(shape_of(s), {.pages = 40, .page_tokens = 3});
  std::vector<index_t> const lengths{17, 40};
  for (index_t b = 0; b < 2; ++b)
    cache.append(b,
                 tensor_view<float const, 3>(&in.key.view()(b, 0, 0, 0), {2, lengths[static_cast<std::size_t>(b)], 20},
                                             {40 * 20, 20, 1}),
                 tensor_view<float const, 3>(&in.value.view()(b, 0, 0, 0),
                                             {2, lengths[static_cast<std::size_t>(b)], 13}, {40 * 13, 13, 1}));
  reference::options with = seeing(reference::causal_bottom_right());
  with.key_length = [&](index_t b) { return lengths[static_cast<std::size_t>(b)]; };
  index_t const queries = 6;
  auto const query = test::tokens_of(in.query, 0, queries);
  auto const expected = reference::softmax_attention<float>(query, in.key.view(), in.value.view(), with);
  auto output = test::filled<float, 4>({2, 4, queries, 13}, 7);
  auto rows = test::filled<float, 3>({2, 4, queries}, 7);
  auto pairs = test::filled<float, 4>({2, 4, queries, 40}, 7);
  softmax_attention(query, cache, output.view(), causal{}, log_sum_exp(rows.view()), weights(pairs.view()));
  double const largest = test::largest_magnitude(in.value.elements);
  EXPECT_TRUE(test::near(output.elements, expected.output, test::tolerance<float>(largest)));
  EXPECT_TRUE(test::near(rows.elements, expected.log_sum_exp, test::tolerance<float>(8)));
  EXPECT_TRUE(test::near(pairs.elements, expected.weights, test::tolerance<float>(1)));
}

TEST(SoftmaxAttentionToACache, GivesTheSameBitsForAnyThreads) {
  sizes const s = longer;
  auto const in = test::random_inputs<float>(s, 6);
  paged_cache<float> cache(shape_of(s), {.pages = 40, .page_tokens = 16});
  cache.append(in.key.view(), in.value.view());
  auto one = test::filled<float, 4>({1, 6, 300, 16}, 7), two = one, whole = one;
  softmax_attention(in.query.view(), cache, one.view(), causal{});
  softmax_attention(in.query.view(), cache, two.view(), causal{}, threads{2});
  EXPECT_TRUE(test::same_bits(one.elements, two.elements));
  // Blocks that are gathered from pages hold the same rows.
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), whole.view(), causal{});
  EXPECT_TRUE(test::same_bits(one.elements, whole.elements));
}

}  // namespace
}  // namespace attend
