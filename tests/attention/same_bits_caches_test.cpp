// SPDX-License-Identifier: BSD-3-Clause
// A sequence in a cache has the same bits alone and among others, at any place, whether they are longer or shorter: in
// pages, quantized, as latents in both forms and sliced, and behind a prefix that all share.
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/attention/cached/shared_prefix_attention.hpp>
#include <attend/attention/cached/sliced_latent_attention.hpp>
#include <attend/cache/paged.hpp>
#include <attend/policy/mask/causal.hpp>

#include "support/executors.hpp"
#include "support/problem.hpp"
#include "support/stores.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace systems;

namespace {

constexpr index_t query_heads = 8, dimension = 32, others = 4;

/// The lengths of five sequences, of which one has `own` tokens, the others more and less.
std::vector<index_t> lengths_around(index_t own, index_t place) {
  std::vector<index_t> lengths;
  for (index_t s = 0; s <= others; ++s) lengths.push_back(s == place ? own : s % 2 ? own / 3 + 70 : 2 * own);
  return lengths;
}

/// [sequence, head, token, dimension]: that of seed 1 at `place`.
test::tensor<float, 4> queries_at(index_t place, index_t sequences, index_t heads, index_t tokens, index_t columns) {
  auto const own = test::normal<float, 4>({1, heads, tokens, columns}, 1);
  auto all = test::normal<float, 4>({sequences, heads, tokens, columns}, 2);
  std::copy(own.elements.begin(), own.elements.end(), &all.view()(place, 0, 0, 0));
  return all;
}

std::vector<float> rows_at(test::tensor<float, 4> const& all, index_t place) {
  auto const size = static_cast<std::ptrdiff_t>(all.elements.size()) / all.extents[0];
  auto const first = all.elements.begin() + place * size;
  return {first, first + size};
}

/// run(sequences, their lengths, where the one is, executor) gives the outputs of all.
template <class Run>
void expect_same_bits(index_t own, Run const& run) {
  auto const alone = rows_at(run(std::vector{own}, 0, threads{1}), 0);
  test::for_executors([&](auto const& executor, std::string const& name) {
    for (index_t place : {0, 2, 4})
      EXPECT_TRUE(test::same_bits(rows_at(run(lengths_around(own, place), place, executor), place), alone))
          << name << ", place " << place;
  });
}

template <class Key, class Value>
void expect_same_bits_in_pages(index_t queries, index_t own) {
  SCOPED_TRACE(testing::Message() << queries << " queries, " << own << " keys");
  test::token_tensors<float> const tokens(2, own, dimension, dimension, 3),
      more(2, 2 * own + 70, dimension, dimension, 5);
  expect_same_bits(own, [&](std::vector<index_t> const& lengths, index_t place, auto const& executor) {
    auto const count = static_cast<index_t>(lengths.size());
    paged_cache<Key, Value> cache({count, 2, dimension, dimension}, {.pages = 10 * own / 16 + 100, .page_tokens = 16});
    // Appended in turns, so that pages lie in any order.
    for (index_t first = 0; first < 2 * own + 70; first += 50)
      for (index_t s = 0; s < count; ++s)
        if (index_t const n = std::min<index_t>(50, lengths[static_cast<std::size_t>(s)] - first); n > 0)
          (s == place ? tokens : more).append_to(cache, s, first, n);
    auto const query = queries_at(place, count, query_heads, queries, dimension);
    auto output = query;
    softmax_attention(query.view(), cache, output.view(), causal{}, executor);
    return output;
  });
}

TEST(SameBitsInCaches, OfOneQueryInPages) { expect_same_bits_in_pages<float, float>(1, 1500); }

TEST(SameBitsInCaches, OfManyQueriesInPages) { expect_same_bits_in_pages<float, float>(40, 300); }

TEST(SameBitsInCaches, OfQuantisedKeysAndValues) {
  expect_same_bits_in_pages<std::int8_t, std::int8_t>(1, 2000);
  expect_same_bits_in_pages<std::int8_t, std::int8_t>(20, 300);
}

TEST(SameBitsInCaches, BehindASharedPrefix) {
  test::token_tensors<float> const tokens(2, 100, dimension, dimension, 3), more(2, 270, dimension, dimension, 5);
  auto const prefix_key = test::normal<float, 3>({2, 2500, dimension}, 7),
             prefix_value = test::normal<float, 3>({2, 2500, dimension}, 8);
  expect_same_bits(100, [&](std::vector<index_t> const& lengths, index_t place, auto const& executor) {
    auto const count = static_cast<index_t>(lengths.size());
    contiguous_cache<float> cache({count, 2, dimension, dimension}, 270);
    for (index_t s = 0; s < count; ++s)
      (s == place ? tokens : more).append_to(cache, s, 0, lengths[static_cast<std::size_t>(s)]);
    auto const query = queries_at(place, count, query_heads, 1, dimension);
    auto output = query;
    shared_prefix_attention(query.view(), prefix_key.view(), prefix_value.view(), cache, output.view(), causal{},
                            executor);
    return output;
  });
}

constexpr index_t plain = 16, rotary_channels = 8, latent = 64, values = 16;

template <class Call>
void expect_same_bits_of_calls(index_t heads, index_t queries, index_t own, Call const& call) {
  SCOPED_TRACE(testing::Message() << heads << " heads, " << queries << " queries, " << own << " keys");
  auto const key = test::normal<float, 3>({heads, plain, latent}, 2, 0.125),
             value = test::normal<float, 3>({heads, values, latent}, 3, 0.125);
  auto const latents = test::normal<float, 2>({own, latent}, 4),
             more = test::normal<float, 2>({2 * own + 70, latent}, 5);
  auto const rotary_key = test::normal<float, 2>({2 * own + 70, rotary_channels}, 6);
  auto const first = [](test::tensor<float, 2> const& all, index_t count) {
    return tensor_view<float const, 2>(all.elements.data(), {count, all.extents[1]});
  };
  expect_same_bits(own, [&](std::vector<index_t> const& lengths, index_t place, auto const& executor) {
    auto const count = static_cast<index_t>(lengths.size());
    auto const query = queries_at(place, count, heads, queries, plain + rotary_channels);
    auto output = test::filled<float, 4>({count, heads, queries, values}, 7);
    call(
        count, 2 * own + 70,
        [&](auto const& append) {
          for (index_t s = 0; s < count; ++s)
            append(s, first(s == place ? latents : more, lengths[static_cast<std::size_t>(s)]),
                   first(rotary_key, lengths[static_cast<std::size_t>(s)]));
        },
        query, latent_projections(key.view(), value.view()), output, executor);
    return output;
  });
}

template <class... Form>
void expect_same_bits_of_latents(index_t heads, index_t queries, index_t own, Form const&... form) {
  expect_same_bits_of_calls(heads, queries, own,
                            [&](index_t count, index_t most, auto const& for_tokens, auto const& query, auto const& up,
                                auto& output, auto const& executor) {
                              latent_cache<float> cache({count, latent, rotary_channels}, most);
                              for_tokens([&](index_t s, auto const& c, auto const& r) { cache.append(s, c, r); });
                              latent_attention(query.view(), cache, up, output.view(), causal{}, executor, form...);
                            });
}

TEST(SameBitsInCaches, OfAbsorbedLatents) {
  expect_same_bits_of_latents(24, 1, 1500, absorbed{});
  expect_same_bits_of_latents(40, 30, 200, absorbed{});
}

TEST(SameBitsInCaches, OfExpandedLatents) { expect_same_bits_of_latents(4, 20, 300, expanded{}); }

TEST(SameBitsInCaches, OfSlicedLatents) {
  auto const slicing = hadamard_slicing<float>(latent, 2);
  expect_same_bits_of_calls(
      6, 3, 900,
      [&](index_t count, index_t most, auto const& for_tokens, auto const& query, auto const& up, auto& output,
          auto const& executor) {
        latent_cache<float> cache({.sequences = count,
                                   .latent_dimension = latent,
                                   .rotary_dimension = rotary_channels,
                                   .shards = slicing.shards()},
                                  most);
        for_tokens([&](index_t s, auto const& c, auto const& r) { append_sliced(cache, s, c, r, slicing, 1e-6); });
        sliced_latent_attention(query.view(), cache, up, slicing, output.view(), causal{}, executor);
      });
}

}  // namespace
}  // namespace attend
