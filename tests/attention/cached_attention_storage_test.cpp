// SPDX-License-Identifier: BSD-3-Clause
// Caches of narrow elements, in any pieces: attention to the numbers that they store, whichever engine reads them.
#include <attend/cache/head_policy.hpp>
#include <attend/cache/paged.hpp>

#include "support/cached_tokens.hpp"

namespace attend {
using namespace caches;
using namespace extend;

namespace {

using test::shape_of;
using test::sizes;

// Dimensions that fill no vector, and an odd number of tokens.
sizes const odd{.batches = 2,
                .query_heads = 4,
                .key_heads = 2,
                .value_heads = 2,
                .queries = 37,
                .keys = 37,
                .key_dimension = 21,
                .value_dimension = 13};
sizes const longer{.query_heads = 4,
                   .key_heads = 2,
                   .value_heads = 2,
                   .queries = 200,
                   .keys = 200,
                   .key_dimension = 64,
                   .value_dimension = 128};

template <class T, class Key, class Value = Key>
void expect_any_cut_of_stores(unsigned seed) {
  reference::options causal_rows;
  causal_rows.visible = reference::causal_bottom_right();
  reference::options streamed;
  streamed.visible = [](reference::place const& at) {
    return at.key <= at.position() && (at.key < 3 || at.position() - at.key < 20);
  };
  for (sizes const& s : {odd, longer}) {
    test::expect_any_cut<T>(
        [&] {
          return paged_cache<Key, Value>(shape_of(s), {.pages = s.batches * divide_up(s.keys, 9), .page_tokens = 9});
        },
        s, seed, causal_rows);
    test::expect_any_cut<T>([&] { return rolling_cache<Key, Value>(shape_of(s), {3, 20}, 11); }, s, seed, streamed);
  }
}

TEST(CachedAttentionStorage, OfBytes) { expect_any_cut_of_stores<float, std::int8_t>(1); }
TEST(CachedAttentionStorage, OfHalfBytes) { expect_any_cut_of_stores<float, int4_pair>(2); }
TEST(CachedAttentionStorage, OfBytesAndHalfBytesForQueriesInBfloat16) {
  expect_any_cut_of_stores<bfloat16, std::int8_t, int4_pair>(3);
}
TEST(CachedAttentionStorage, OfHalvesForQueriesInFloat) { expect_any_cut_of_stores<float, half>(4); }

// Channel scales are seen by both engines: token by token, and many at once.
TEST(CachedAttentionStorage, WithChannelScales) {
  sizes const s = longer;
  auto in = test::random_inputs<float>(s, 5);
  auto scales = test::filled<float, 2>({2, 64}, 1);
  for (index_t head = 0; head < 2; ++head)
    for (index_t c = 0; c < 64; ++c) scales.view()(head, c) = 0.5f + static_cast<float>((c * 7 + head) % 5);
  tensor_view<float const, 2> const channels = scales.view();
  contiguous_cache<std::int8_t> cache(shape_of(s), s.keys, channels);
  cache.append(in.key.view(), in.value.view());
  auto const stored = test::as_stored(cache, in);
  double const allowed = test::tolerance<float>(test::largest_magnitude(in.value.elements));
  for (index_t queries : {1, 3, 200}) {
    auto const query = test::tokens_of(in.query, s.keys - queries, queries);
    auto output = test::filled<float, 4>({1, 4, queries, 128}, 7);
    softmax_attention(query, cache, output.view(), causal{});
    reference::options with;
    with.visible = reference::causal_bottom_right();
    auto const expected = reference::softmax_attention<double>(test::tokens_of(stored.query, s.keys - queries, queries),
                                                               stored.key.view(), stored.value.view(), with);
    EXPECT_TRUE(test::near(output.elements, expected.output, allowed)) << queries;
  }
}

}  // namespace
}  // namespace attend
