// SPDX-License-Identifier: BSD-3-Clause
// Latent attention over latents that are paged, or quantized: both forms follow the definition on what is stored; and
// what quantisation costs.
#include <attend/attention/cached/sliced_latent_attention.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/reference/latent_attention.hpp>

#include "support/compare.hpp"
#include "support/problem.hpp"
#include "support/stores.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace systems;

namespace {

constexpr index_t heads = 5, plain = 24, rotary_channels = 8, latent = 64, values = 16, keys = 90;

struct inputs {
  test::tensor<float, 3> key = test::normal<float, 3>({heads, plain, latent}, 2, 1 / std::sqrt(double(latent)));
  test::tensor<float, 3> value = test::normal<float, 3>({heads, values, latent}, 3, 1 / std::sqrt(double(latent)));
  test::tensor<float, 2> latents = test::normal<float, 2>({keys, latent}, 4);
  test::tensor<float, 2> rotary_keys = test::normal<float, 2>({keys, rotary_channels}, 5);

  latent_projections<float> up() const { return {key.view(), value.view()}; }

  /// Sequence 0 has some tokens alone, sequence 1 all of them, filled by turns.
  template <class Cache>
  void append_to(Cache& cache) const {
    for (index_t first = 0; first < keys; first += 9)
      for (index_t s = first < 45 ? 0 : 1; s < 2; ++s)
        cache.append(s, tensor_view<float const, 2>(&latents.view()(first, 0), {9, latent}),
                     tensor_view<float const, 2>(&rotary_keys.view()(first, 0), {9, rotary_channels}));
  }
};

/// What the definition says of the rows that a sequence of a cache holds.
template <class Cache>
std::vector<double> expected_of(inputs const& in, Cache const& cache, index_t sequence,
                                tensor_view<float const, 3> const& query) {
  test::tensor<float, 2> latents{{cache.size(sequence), latent}, {}},
      rotary_keys{{cache.size(sequence), rotary_channels}, {}};
  for (auto const& row : test::stored_rows(cache, sequence, 0)) {
    latents.elements.insert(latents.elements.end(), row.key.begin(), row.key.begin() + latent);
    rotary_keys.elements.insert(rotary_keys.elements.end(), row.key.begin() + latent, row.key.end());
  }
  reference::options with;
  with.visible = reference::causal_bottom_right();
  return reference::latent_attention<float, float, float>(query, latents.view(), rotary_keys.view(), in.key.view(),
                                                          in.value.view(), with);
}

template <class Cache>
void expect_definition(Cache cache) {
  inputs const in;
  in.append_to(cache);
  for (index_t tokens : {1, 4, 40}) {
    auto const query = test::normal<float, 4>({2, heads, tokens, plain + rotary_channels}, 6);
    std::vector<double> expected;
    for (index_t s = 0; s < 2; ++s) {
      auto const one =
          expected_of(in, cache, s,
                      tensor_view<float const, 3>(&query.view()(s, 0, 0, 0), {heads, tokens, plain + rotary_channels}));
      expected.insert(expected.end(), one.begin(), one.end());
    }
    auto a = test::filled<float, 4>({2, heads, tokens, values}, 7), e = a;
    latent_attention(query.view(), cache, in.up(), a.view(), causal{}, absorbed{});
    latent_attention(query.view(), cache, in.up(), e.view(), causal{}, expanded{}, threads{2});
    // Values are sums of latents, and the projections two more sums.
    double const allowed = 3 * test::tolerance<float>(6);
    EXPECT_TRUE(test::near(a.elements, expected, allowed)) << tokens;
    EXPECT_TRUE(test::near(e.elements, expected, allowed)) << tokens;
  }
}

latent_shape const shape{.sequences = 2, .latent_dimension = latent, .rotary_dimension = rotary_channels};

TEST(LatentAttentionStores, OfPages) {
  expect_definition(paged_latent_cache<float>(shape, paging{.pages = 40, .page_tokens = 4}));
}
TEST(LatentAttentionStores, OfBytes) { expect_definition(latent_cache<std::int8_t>(shape, keys)); }
TEST(LatentAttentionStores, OfBytesInPages) {
  expect_definition(paged_latent_cache<std::int8_t>(shape, paging{.pages = 40, .page_tokens = 4}));
}

// A shard has a scale of its own; the slices of one shard are latent attention.
TEST(LatentAttentionStores, OfSlicesInBytes) {
  inputs const in;
  auto const slicing = hadamard_slicing<float>(latent, 2);
  latent_shape sharded = shape;
  sharded.shards = 2;
  latent_cache<float> exact(sharded, keys);
  latent_cache<std::int8_t> bytes(sharded, keys);
  for (index_t s = 0; s < 2; ++s) {
    append_sliced(exact, s, in.latents.view(), in.rotary_keys.view(), slicing, 1e-6);
    append_sliced(bytes, s, in.latents.view(), in.rotary_keys.view(), slicing, 1e-6);
  }
  auto const query = test::normal<float, 4>({2, heads, 1, plain + rotary_channels}, 6);
  auto a = test::filled<float, 4>({2, heads, 1, values}, 7), b = a;
  sliced_latent_attention(query.view(), exact, in.up(), slicing, a.view());
  sliced_latent_attention(query.view(), bytes, in.up(), slicing, b.view());
  double error = 0, size = 0;
  for (std::size_t i = 0; i < a.elements.size(); ++i) {
    error += std::pow(static_cast<double>(b.elements[i]) - static_cast<double>(a.elements[i]), 2);
    size += std::pow(static_cast<double>(a.elements[i]), 2);
  }
  // A step is 1/127 of the largest of a row, some three deviations: errors of 3 / 127 / sqrt(12) in values, and in
  // weights of as much again for the logits' spread.
  EXPECT_LE(std::sqrt(error / size), 2 * 3.0 / 127 / std::sqrt(12.0));
  EXPECT_GT(error, 0);
}

}  // namespace
}  // namespace attend
