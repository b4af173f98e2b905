// The latent cache: what it keeps, where, in how many bytes, and what it refuses.
#include <attend/cache/latent.hpp>
#include <attend/variant/rotary_embedding.hpp>

#include "support/expect_error.hpp"
#include "support/compare.hpp"
#include "support/random_tensor.hpp"

namespace attend {
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
  rotary const how(rotary_frequencies(8), rotary_layout::interleaved);
  rotary_embedding(key.view(), how, expected.view());
  for (index_t first = 0; first < 9; first += 3)
    cache.append(0, tensor_view<float const, 2>(&latent.view()(first, 0), {3, 3}),
                 tensor_view<float const, 2>(&key.view()(first, 0), {3, 8}), how);
  for (index_t token = 0; token < 9; ++token)
    for (index_t c = 0; c < 8; ++c) EXPECT_EQ(cache.rows(0, 0, token).key[3 + c], expected.view()(token, c));
}

TEST(LatentCache, RefusesWhatDoesNotFit) {
  expect_error("latent_cache: expected extents of at least 0, got -1",
               [] { latent_cache<float>({.sequences = 1}, -1); });
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
  expect_error("size: expected from 0 to 2 (the tokens), got 3", [&] { cache.truncate(0, 3); });
  EXPECT_EQ(cache.size(0), 2);
}

}  // namespace
}  // namespace attend
