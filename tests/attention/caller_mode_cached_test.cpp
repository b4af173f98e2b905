// SPDX-License-Identifier: BSD-3-Clause
// Caches of every storage, what is read from them, and latents have the same bits in whatever floating-point mode they
// are written and read, on numbers of all sizes.
#include <attend/attention/cached/block_attention.hpp>
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/attention/cached/decode_attention.hpp>
#include <attend/attention/cached/latent_attention.hpp>
#include <attend/attention/cached/razor_attention.hpp>
#include <attend/attention/cached/shared_prefix_attention.hpp>
#include <attend/attention/cached/sliced_latent_attention.hpp>
#include <attend/attention/cached/streaming_attention.hpp>
#include <attend/cache/compensated.hpp>
#include <attend/cache/contiguous.hpp>
#include <attend/cache/paged.hpp>
#include <attend/cache/rolling.hpp>

#include "support/caller_mode_names.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace extend;
using namespace systems;

namespace {

constexpr index_t tokens = 60;
constexpr cache_shape shape{.sequences = 2, .key_value_heads = 2, .key_dimension = 24, .value_dimension = 20};

class CallerModeOfCaches : public testing::Test {
 protected:
  test::tensor<float, 4> query = of_all_sizes<float, 4>({2, 4, tokens, 24}, 1);
  test::tensor<float, 4> key = of_all_sizes<float, 4>({2, 2, tokens, 24}, 2);
  test::tensor<float, 4> value = of_all_sizes<float, 4>({2, 2, tokens, 20}, 3);

  template <class Cache>
  bytes read(Cache const& cache) const {
    bytes all;
    for (index_t s = 0; s < 2; ++s)
      for (index_t head = 0; head < 2; ++head)
        for (index_t row = 0; row < cache.stored(s, head);) {
          auto const run = cache.rows(s, head, row);
          row += run.count;
          float numbers[24];
          for (index_t i = 0; i < run.count; ++i) {
            arithmetic_mode const arithmetic;
            detail::read_key(run, i, 24, numbers);
            all.add(numbers, 24);
            detail::read_value(run, i, 20, numbers);
            all.add(numbers, 20);
          }
        }
    return all;
  }

  /// A prompt, and then some steps.
  template <class Cache, class... Options>
  bytes in_turns(Cache&& cache, Options&&... options) const {
    auto output = test::filled<float, 4>({2, 4, tokens, 20}, 7.f);
    index_t first = 0;
    for (index_t count : {40, 1, 1, 15, 3}) {
      auto const some = [&](auto const& all) { return detail::part(all.view(), 2, first, count); };
      cached_attention(cache, some(query), some(key), some(value), detail::part(output.view(), 2, first, count),
                       options...);
      first += count;
    }
    return read(cache) << output;
  }
};

TEST_F(CallerModeOfCaches, OfEveryStorage) {
  auto const scales = test::filled<float, 2>({2, 24}, 0.37f);
  expect_one_result([&] { return in_turns(contiguous_cache<float>(shape, tokens)); });
  expect_one_result([&] { return in_turns(contiguous_cache<half>(shape, tokens)); });
  expect_one_result([&] { return in_turns(contiguous_cache<bfloat16>(shape, tokens)); });
  expect_one_result([&] { return in_turns(contiguous_cache<std::int8_t>(shape, tokens, scales.view())); });
  expect_one_result([&] { return in_turns(contiguous_cache<int4_pair>(shape, tokens)); });
}

TEST_F(CallerModeOfCaches, OfRotatedKeysOnEveryExecutor) {
  expect_one_result_everywhere([&](auto& executor) {
    return in_turns(paged_cache<std::int8_t>(shape, {.pages = 20, .page_tokens = 8}), rotary(rotary_frequencies(24)),
                    executor);
  });
}

TEST_F(CallerModeOfCaches, ThatDropTokens) {
  expect_one_result([&] { return in_turns(rolling_cache<float>(shape, {4, 16}, 4)); });
  expect_one_result([&] {
    compensated_cache<float> cache(shape, {4, 16}, 4);
    auto output = test::filled<float, 4>({2, 4, tokens, 20}, 7.f);
    razor_attention(cache, query.view(), key.view(), value.view(), output.view());
    rolling_cache<bfloat16> other(shape, {4, 16}, 4);
    auto streamed = output;
    streaming_attention(other, query.view(), key.view(), value.view(), streamed.view(), rotary(rotary_frequencies(24)));
    return bytes() << output << streamed;
  });
}

TEST_F(CallerModeOfCaches, OfPrefixesAndPassages) {
  expect_one_result_everywhere([&](auto& executor) {
    contiguous_cache<half> cache(shape, tokens);
    cache.append(key.view(), value.view());
    auto output = test::filled<float, 4>({2, 4, 3, 20}, 7.f);
    auto const last = detail::part(query.view(), 2, tokens - 3, 3);
    tensor_view<float const, 3> const prefix_key(key.elements.data(), {2, tokens, 24});
    tensor_view<float const, 3> const prefix_value(value.elements.data(), {2, tokens, 20});
    shared_prefix_attention(last, prefix_key, prefix_value, cache, output.view(), executor);
    contiguous_cache<half> prompt(shape, 2 * tokens);
    append_block(cache, 0, prompt, 1, rotary(rotary_frequencies(24)));
    return read(prompt) << output;
  });
}

TEST_F(CallerModeOfCaches, OfLatents) {
  auto const latent = of_all_sizes<float, 2>({50, 32}, 4), turned = of_all_sizes<float, 2>({50, 8}, 5);
  auto const up_key = test::normal<float, 3>({4, 16, 32}, 6, 0.2),
             up_value = test::normal<float, 3>({4, 20, 32}, 7, 0.2);
  auto const q = of_all_sizes<float, 4>({1, 4, 3, 24}, 8);
  latent_projections<float> const up{up_key.view(), up_value.view()};
  expect_one_result_everywhere([&](auto& executor) {
    latent_cache<half> cache({.sequences = 1, .latent_dimension = 32, .rotary_dimension = 8}, 50);
    rotary const settings(rotary_frequencies(8));
    cache.append(0, latent.view(), turned.view(), settings);
    auto in_latents = test::filled<float, 4>({1, 4, 3, 20}, 7.f), in_keys = in_latents;
    latent_attention(q.view(), cache, up, in_latents.view(), absorbed{}, settings, causal{}, executor);
    latent_attention(q.view(), cache, up, in_keys.view(), expanded{}, settings, causal{}, executor);
    return bytes() << in_latents << in_keys;
  });
  expect_one_result([&] {
    auto const slicing = hadamard_slicing(32, 2);
    auto own_key = up_key, own_value = up_value;
    transform_projection(up_key.view(), slicing, own_key.view());
    transform_projection(up_value.view(), slicing, own_value.view());
    latent_cache<float> cache({.sequences = 1, .latent_dimension = 32, .rotary_dimension = 8, .shards = 2}, 50);
    append_sliced(cache, 0, latent.view(), turned.view(), slicing, 1e-6);
    auto output = test::filled<float, 4>({1, 4, 3, 20}, 7.f);
    latent_projections<float> const own{own_key.view(), own_value.view()};
    sliced_latent_attention(q.view(), cache, own, slicing, output.view());
    return bytes() << own_key << own_value << output;
  });
}

}  // namespace
}  // namespace attend
