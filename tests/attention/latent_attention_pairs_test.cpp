// SPDX-License-Identifier: BSD-3-Clause
// Latent attention in bfloat16 alone, in dimensions that a matrix unit takes: what is rounded there, and that nothing
// else is. Compiled for the processor at hand, with an emulated matrix unit (tests/emulated_pairs), and with
// AVX512-BF16 in its place.
#include <attend/attention/cached/sliced_latent_attention.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/precision.hpp>
#include <attend/reference/latent_attention.hpp>

#include "support/compare.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace extend;

namespace {

constexpr index_t plain = 24, rotary_channels = 32, latent = 64, values = 16;

/// One sequence; C: the elements of the cache.
template <class T, class C = T, class Rows = contiguous_cache<C, float>>
struct latent_inputs {
  index_t heads, tokens, keys;
  test::tensor<T, 4> query = test::normal<T, 4>({1, heads, tokens, plain + rotary_channels}, 1);
  test::tensor<T, 3> key = test::normal<T, 3>({heads, plain, latent}, 2, 1 / std::sqrt(double(latent)));
  test::tensor<T, 3> value = test::normal<T, 3>({heads, values, latent}, 3, 1 / std::sqrt(double(latent)));
  test::tensor<C, 2> latents = test::normal<C, 2>({keys, latent}, 4);
  test::tensor<C, 2> rotary_keys = test::normal<C, 2>({keys, rotary_channels}, 5);

  template <class Cache, class... Options>
  test::tensor<T, 4> attend_to(Cache&& cache, Options const&... options) const {
    cache.append(0, latents.view(), rotary_keys.view());
    auto o = test::filled<T, 4>({1, heads, tokens, values}, T(7));
    latent_attention(query.view(), cache, latent_projections(key.view(), value.view()), o.view(), options...);
    return o;
  }
  template <class... Options>
  test::tensor<T, 4> attend(Options const&... options) const {
    return attend_to(latent_cache<C>({1, latent, rotary_channels}, keys), options...);
  }

  std::vector<double> expected(reference::options const& with) const {
    return reference::latent_attention<T, C, T>(
        tensor_view<T const, 3>(query.elements.data(), {heads, tokens, plain + rotary_channels}), latents.view(),
        rotary_keys.view(), key.view(), value.view(), with);
  }

  /// The largest change of an output by rounding to bfloat16, u = 2^-8 of each number: of absorbed queries, which
  /// changes a logit by d = u scale sum_c |q_c| |c_c|, and weights by exp(2 d) - 1; of weights; of what they mix; and
  /// of the output. What is weighed are latents of at most `most`, which W_v takes to sum_c |W_v| most.
  double allowed() const {
    double const u = 0x1p-8;
    double most = 0, most_output = 0, most_logit = 0;
    for (C x : latents.elements) most = std::max(most, std::abs(static_cast<double>(x)));
    for (index_t h = 0; h < heads; ++h) {
      for (index_t n = 0; n < values; ++n) {
        double sum = 0;
        for (index_t c = 0; c < latent; ++c) sum += std::abs(static_cast<double>(value.view()(h, n, c)));
        most_output = std::max(most_output, sum * most);
      }
      for (index_t t = 0; t < tokens; ++t) {
        std::vector<double> absorbed_query(latent);
        for (index_t c = 0; c < latent; ++c)
          for (index_t k = 0; k < plain; ++k)
            absorbed_query[static_cast<std::size_t>(c)] +=
                static_cast<double>(query.view()(0, h, t, k)) * static_cast<double>(key.view()(h, k, c));
        for (index_t j = 0; j < keys; ++j) {
          double sum = 0;
          for (index_t c = 0; c < latent; ++c)
            sum += std::abs(absorbed_query[static_cast<std::size_t>(c)] * static_cast<double>(latents.view()(j, c)));
          most_logit = std::max(most_logit, sum / std::sqrt(double(plain + rotary_channels)));
        }
      }
    }
    double const of_queries = std::expm1(2 * u * most_logit), of_floats = 400 * 0x1p-24;
    return (of_queries + u + u + u + of_floats) * most_output;
  }
};

/// The same for the expanded form, in which keys become bfloat16, and values, weights and the output.
double allowed_expanded(latent_inputs<bfloat16> const& in) {
  double const u = 0x1p-8;
  auto const latents = tensor_view<bfloat16 const, 2>(in.latents.view());
  double most_logit = 0, most_value = 0;
  for (index_t h = 0; h < in.heads; ++h) {
    auto const key = reference::from_latents<bfloat16, bfloat16>(latents, in.key.view(), h);
    for (double const v : reference::from_latents<bfloat16, bfloat16>(latents, in.value.view(), h))
      most_value = std::max(most_value, std::abs(v));
    for (index_t t = 0; t < in.tokens; ++t)
      for (index_t j = 0; j < in.keys; ++j) {
        double sum = 0;
        for (index_t c = 0; c < plain; ++c)
          sum +=
              std::abs(static_cast<double>(in.query.view()(0, h, t, c)) * key[static_cast<std::size_t>(j * plain + c)]);
        most_logit = std::max(most_logit, sum / std::sqrt(double(plain + rotary_channels)));
      }
  }
  return (std::expm1(2 * u * most_logit) + u + u + u + 400 * 0x1p-24) * most_value;
}

reference::options seen(std::function<bool(reference::place const&)> visible) {
  reference::options with;
  with.visible = std::move(visible);
  return with;
}

TEST(LatentAttentionPairs, FollowsTheDefinition) {
  for (index_t const heads : {3, 5, 16, 24, 128})
    for (index_t const tokens : {1, 3})
      for (index_t const keys : {3, 65, 300}) {
        SCOPED_TRACE(testing::Message() << heads << " heads, " << tokens << " tokens, " << keys << " keys");
        latent_inputs<bfloat16> const in{heads, tokens, keys};
        EXPECT_TRUE(test::near(in.attend(causal{}, absorbed{}).elements,
                               in.expected(seen(reference::causal_bottom_right())), in.allowed()));
        EXPECT_TRUE(test::near(in.attend(window{20, 0}, absorbed{}).elements,
                               in.expected(seen(reference::sliding_window(20, 0))), in.allowed()));
      }
}

TEST(LatentAttentionPairs, FollowsTheDefinitionExpanded) {
  for (index_t const tokens : {1, 20, 65})
    for (index_t const keys : {70, 300}) {
      SCOPED_TRACE(testing::Message() << tokens << " tokens, " << keys << " keys");
      latent_inputs<bfloat16> const in{3, tokens, keys};
      double const allowed = allowed_expanded(in);
      auto const expected = in.expected(seen(reference::causal_bottom_right()));
      EXPECT_TRUE(test::near(in.attend(causal{}, expanded{}).elements, expected, allowed));
      EXPECT_TRUE(test::near(in.attend(window{20, 0}, expanded{}).elements,
                             in.expected(seen(reference::sliding_window(20, 0))), allowed));
      latent_cache<bfloat16, paged_cache<bfloat16, float>> pages({1, latent, rotary_channels},
                                                                 paging{.pages = 50, .page_tokens = 7});
      EXPECT_TRUE(test::same_bits(in.attend_to(pages, causal{}, expanded{}).elements,
                                  in.attend(causal{}, expanded{}, threads{3}).elements));
    }
}

// The keys' error shows where it is rounded: k = 1 + 2^-9 becomes 1, and all keys weigh as much as each other.
TEST(LatentAttentionPairs, RoundsExpandedKeysUnlessTold) {
  latent_inputs<bfloat16> in{1, 40, 40};
  for (auto* tensor :
       {&in.query.elements, &in.key.elements, &in.value.elements, &in.latents.elements, &in.rotary_keys.elements})
    std::fill(tensor->begin(), tensor->end(), bfloat16(0));
  for (index_t t = 0; t < 40; ++t) in.query.view()(0, 0, t, 0) = bfloat16(1024);
  in.key.view()(0, 0, 0) = in.value.view()(0, 0, 2) = bfloat16(1);
  in.key.view()(0, 0, 1) = bfloat16(0x1p-9f);
  for (index_t j = 0; j < 40; ++j) in.latents.view()(j, 0) = bfloat16(1);
  in.latents.view()(0, 1) = in.latents.view()(0, 2) = bfloat16(1);
  auto const output = [&](auto const&... options) {
    return static_cast<double>(in.attend(scale(1), expanded{}, options...).view()(0, 0, 39, 0));
  };
  double const exact = std::exp(2.0) / (std::exp(2.0) + 39), rounded = 1.0 / 40;
  EXPECT_NEAR(output(full_precision{}), exact, 0x1p-8 * exact);
  EXPECT_NEAR(output(), simd::uses_pair_products() ? rounded : exact, 0x1p-7 * exact);
}

TEST(LatentAttentionPairs, ReadsPages) {
  for (index_t const heads : {8, 40}) {
    latent_inputs<bfloat16> const in{heads, 1, 150};
    auto const whole = in.attend(causal{}, absorbed{});
    for (index_t const page : {7, 16, 64}) {
      latent_cache<bfloat16, paged_cache<bfloat16, float>> pages({1, latent, rotary_channels},
                                                                 paging{.pages = 30, .page_tokens = page});
      EXPECT_TRUE(test::near(in.attend_to(pages, causal{}, absorbed{}).elements,
                             in.expected(seen(reference::causal_bottom_right())), in.allowed()));
    }
  }
}

TEST(LatentAttentionPairs, HasTheSameBitsForAnyThreads) {
  for (index_t const heads : {8, 128}) {
    latent_inputs<bfloat16> const in{heads, 1, 3000};
    auto const alone = in.attend(causal{}, absorbed{});
    for (int const count : {2, 5})
      EXPECT_TRUE(test::same_bits(in.attend(causal{}, absorbed{}, threads{count}).elements, alone.elements));
  }
}

// Nothing but the output is rounded where queries, cache or projections have digits to lose, or where that is asked
// for: the error is that of floats, and of the output.
TEST(LatentAttentionPairs, RoundsNothingElse) {
  auto const expect_floats = [](auto const& in, double rounding, auto const&... options) {
    auto const expected = in.expected(seen(reference::causal_bottom_right()));
    auto const got = in.attend(causal{}, options...).elements;
    double const most = in.allowed() / 0x1p-8 / 3;
    ASSERT_EQ(got.size(), expected.size());
    for (std::size_t i = 0; i < got.size(); ++i)
      EXPECT_NEAR(static_cast<double>(got[i]), expected[i], rounding * std::abs(expected[i]) + 400 * 0x1p-24 * most);
  };
  expect_floats(latent_inputs<bfloat16>{16, 1, 100}, 0x1p-8, absorbed{}, full_precision{});
  expect_floats(latent_inputs<float, bfloat16>{16, 1, 100}, 0, absorbed{});
  expect_floats(latent_inputs<bfloat16>{4, 1, 100}, 0x1p-8, absorbed{});
  expect_floats(latent_inputs<bfloat16>{2, 40, 100}, 0x1p-8, expanded{}, full_precision{});
  expect_floats(latent_inputs<float, bfloat16>{2, 40, 100}, 0, expanded{});
  expect_floats(latent_inputs<bfloat16, float>{2, 40, 100}, 0x1p-8, expanded{});
}

}  // namespace
}  // namespace attend
