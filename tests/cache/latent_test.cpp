// SPDX-License-Identifier: BSD-3-Clause
// The latent cache: what it keeps, where, in how many bytes, and what it refuses.
#include <attend/attention/softmax/rotary_embedding.hpp>
#include <attend/cache/latent.hpp>

#include "support/compare.hpp"
#include "support/stores.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace extend;

namespace {

using test::expect_error;

static_assert(KeyValueSource<latent_cache<float>> && KeyValueSource<latent_cache<bfloat16>>);

TEST(LatentCache, RowsAreLatentAndRotaryKey) {
  latent_cache<float> cache({.sequences = 2, .latent_dimension = 12, .rotary_dimension = 5}, 10);
  auto const latent = test::normal<float, 2>({6, 12}, 1), key = test::normal<float, 2>({6, 5}, 2);
  cache.append(1, tensor_view<float const, 2>(latent.elements.data(), {4, 12}),
               tensor_view<float const, 2>(key.elements.data(), {4, 5}));
  cache.append(1, tensor_view<float const, 2>(&latent.view()(4, 0), {2, 12}),
               tensor_view<float const, 2>(&key.view()(4, 0), {2, 5}));
  EXPECT_EQ(cache.size(0), 0);
  EXPECT_EQ(cache.size(1), 6);
  EXPECT_EQ(cache.stored(1, 0), 6);
  EXPECT_EQ(cache.key_value_heads(), 1);
  auto const rows = cache.rows(1, 0, 2);
  EXPECT_EQ(rows.count, 4);
  EXPECT_EQ(rows.position, 2);
  EXPECT_EQ(rows.key, rows.value);
  for (index_t token = 2; token < 6; ++token) {
    float const* const row = rows.key + (token - 2) * rows.key_stride;
    for (index_t c = 0; c < 12; ++c) EXPECT_EQ(row[c], latent.view()(token, c));
    for (index_t c = 0; c < 5; ++c) EXPECT_EQ(row[12 + c], key.view()(token, c));
  }
  // Two sequences of ten tokens, seventeen floats each, and a size for each sequence.
  EXPECT_EQ(cache.bytes(), 2 * 10 * 17 * 4 + 2 * static_cast<index_t>(sizeof(index_t)));
  cache.truncate(1, 3);
  EXPECT_EQ(cache.size(1), 3);
}

TEST(LatentCache, ShardsHaveASliceAndTheRotaryKey) {
  latent_cache<bfloat16> cache({.sequences = 1, .latent_dimension = 12, .rotary_dimension = 2, .shards = 3}, 4);
  auto const latent = test::normal<float, 2>({4, 12}, 1), key = test::normal<float, 2>({4, 2}, 2);
  cache.append(0, latent.view(), key.view());
  EXPECT_EQ(cache.key_value_heads(), 3);
  EXPECT_EQ(cache.key_dimension(), 6);
  EXPECT_EQ(cache.value_dimension(), 4);
  EXPECT_EQ(cache.bytes(), 3 * 4 * 6 * 2 + static_cast<index_t>(sizeof(index_t)));
  for (index_t shard = 0; shard < 3; ++shard)
    for (index_t token = 0; token < 4; ++token) {
      bfloat16 const* const row = cache.rows(0, shard, token).key;
      for (index_t c = 0; c < 4; ++c) EXPECT_EQ(row[c], static_cast<bfloat16>(latent.view()(token, 4 * shard + c)));
      for (index_t c = 0; c < 2; ++c) EXPECT_EQ(row[4 + c], static_cast<bfloat16>(key.view()(token, c)));
    }
}

TEST(LatentCache, RotatesAsItAppends) {
  latent_cache<float> cache({.sequences = 1, .latent_dimension = 3, .rotary_dimension = 8}, 9);
  auto const latent = test::normal<float, 2>({9, 3}, 1), key = test::normal<float, 2>({9, 8}, 2);
  auto expected = key;
  rotary const settings(rotary_frequencies(8), rotary_layout::interleaved);
  rotary_embedding(key.view(), settings, expected.view());
  for (index_t first = 0; first < 9; first += 3)
    cache.append(0, tensor_view<float const, 2>(&latent.view()(first, 0), {3, 3}),
                 tensor_view<float const, 2>(&key.view()(first, 0), {3, 8}), settings);
  for (index_t token = 0; token < 9; ++token)
    for (index_t c = 0; c < 8; ++c) EXPECT_EQ(cache.rows(0, 0, token).key[3 + c], expected.view()(token, c));
}

template <class Cache>
void expect_rows_of_tokens(Cache const& cache, index_t sequence, test::tensor<float, 2> const& latent,
                           test::tensor<float, 2> const& key, index_t tokens) {
  auto const rows = test::stored_rows(cache, sequence, 0);
  ASSERT_EQ(static_cast<index_t>(rows.size()), tokens);
  for (index_t token = 0; token < tokens; ++token) {
    auto const& row = rows[static_cast<std::size_t>(token)];
    EXPECT_EQ(row.position, token);
    for (index_t c = 0; c < 12; ++c) {
      EXPECT_EQ(row.key[static_cast<std::size_t>(c)], latent.view()(token, c));
      EXPECT_EQ(row.value[static_cast<std::size_t>(c)], latent.view()(token, c));
    }
    for (index_t c = 0; c < 5; ++c) EXPECT_EQ(row.key[static_cast<std::size_t>(12 + c)], key.view()(token, c));
  }
}

TEST(LatentCache, PagesAreSharedByForks) {
  paged_latent_cache<float> cache({.sequences = 2, .latent_dimension = 12, .rotary_dimension = 5},
                                  paging{.pages = 6, .page_tokens = 3});
  auto const latent = test::normal<float, 2>({10, 12}, 1), key = test::normal<float, 2>({10, 5}, 2);
  auto const append = [&](index_t sequence, index_t first, index_t count) {
    cache.append(sequence, tensor_view<float const, 2>(&latent.view()(first, 0), {count, 12}),
                 tensor_view<float const, 2>(&key.view()(first, 0), {count, 5}));
  };
  append(0, 0, 8);
  cache.fork(0, 1);
  append(1, 8, 1);
  append(0, 8, 2);
  expect_rows_of_tokens(cache, 0, latent, key, 10);
  expect_rows_of_tokens(cache, 1, latent, key, 9);
  expect_error("latent: expected at most 3 more tokens (sequence 1 has 9, 1 of 6 pages of 3 tokens are free), got 4",
               [&] { append(1, 0, 4); });
  cache.truncate(1, 2);
  expect_rows_of_tokens(cache, 1, latent, key, 2);
  // Six pages of three tokens of seventeen floats, and the tables.
  EXPECT_EQ(cache.bytes(), 6 * 3 * 17 * 4 + 2 * 6 * 4 + 2 * static_cast<index_t>(sizeof(index_t)) + 2 * 6 * 4);
}

TEST(LatentCache, RowsMayBeQuantised) {
  latent_cache<std::int8_t> cache({.sequences = 1, .latent_dimension = 12, .rotary_dimension = 5}, 6);
  auto const latent = test::normal<float, 2>({6, 12}, 1), key = test::normal<float, 2>({6, 5}, 2);
  cache.append(0, latent.view(), key.view());
  auto const rows = test::stored_rows(cache, 0, 0);
  for (index_t token = 0; token < 6; ++token) {
    auto const& row = rows[static_cast<std::size_t>(token)];
    auto const number = [&](index_t c) { return c < 12 ? latent.view()(token, c) : key.view()(token, c - 12); };
    float largest = 0;
    for (index_t c = 0; c < 17; ++c) largest = std::max(largest, std::abs(number(c)));
    // Half a step of 127, and the rounding of the scale, the quotient and the product: three of at most 127 steps.
    double const allowed = largest / 127 * (0.5 + 127 * 3 * test::unit_roundoff<float>());
    for (index_t c = 0; c < 17; ++c)
      EXPECT_NEAR(row.key[static_cast<std::size_t>(c)], number(c), allowed) << token << ' ' << c;
    for (index_t c = 0; c < 12; ++c)
      EXPECT_EQ(row.value[static_cast<std::size_t>(c)], row.key[static_cast<std::size_t>(c)]);
  }
  // Seventeen bytes and a scale a token.
  EXPECT_EQ(cache.bytes(), 6 * (17 + 4) + static_cast<index_t>(sizeof(index_t)));
}

TEST(LatentCache, RefusesWhatDoesNotFit) {
  expect_error("latent_cache: expected extents of at least 0, got -1",
               [] { latent_cache<float>({.sequences = -1}, 1); });
  expect_error("contiguous_cache: expected extents of at least 0, got [1, 1, -1, 576]",
               [] { latent_cache<float>({.sequences = 1}, -1); });
  expect_error("paged_cache: expected pages of 1 to 536870911 tokens, got 0",
               [] { paged_latent_cache<float>({.sequences = 1}, paging{.pages = 2, .page_tokens = 0}); });
  expect_error("latent_cache: expected shards that divide the latent dimension (12), got 5",
               [] { latent_cache<float>({.sequences = 1, .latent_dimension = 12, .shards = 5}, 1); });
  latent_cache<float> cache({.sequences = 1, .latent_dimension = 4, .rotary_dimension = 2}, 3);
  auto const latent = test::normal<float, 2>({4, 4}, 1), key = test::normal<float, 2>({4, 2}, 2);
  auto const rows = [](auto const& tensor, index_t count) {
    return tensor_view<float const, 2>(tensor.elements.data(), {count, tensor.extents[1]});
  };
  expect_error("sequence: expected from 0 to 0, got 1", [&] { cache.append(1, rows(latent, 1), rows(key, 1)); });
  expect_error("latent: expected dimension 4 (as the cache), got 2",
               [&] { cache.append(0, rows(key, 1), rows(key, 1)); });
  expect_error("rotary_key: expected dimension 2 (as the cache), got 4",
               [&] { cache.append(0, rows(latent, 1), rows(latent, 1)); });
  expect_error("rotary_key: expected tokens 2 (as latent), got 1",
               [&] { cache.append(0, rows(latent, 2), rows(key, 1)); });
  cache.append(0, rows(latent, 2), rows(key, 2));
  expect_error("latent: expected at most 1 more tokens (sequence 0 has 2 of 3), got 2",
               [&] { cache.append(0, rows(latent, 2), rows(key, 2)); });
  expect_error("rotary: expected at most 2 channels (the head dimension), got 4",
               [&] { cache.append(0, rows(latent, 1), rows(key, 1), rotary(rotary_frequencies(4))); });
  std::vector<std::int64_t> const two(2);
  expect_error("rotary (keys): expected tokens 1 (as the tensor), got 2",
               [&] { cache.append(0, rows(latent, 1), rows(key, 1), rotary(rotary_frequencies(2)).at(two)); });
  expect_error("size: expected from 0 to 2 (the tokens), got 3", [&] { cache.truncate(0, 3); });
  EXPECT_EQ(cache.size(0), 2);
}

}  // namespace
}  // namespace attend
