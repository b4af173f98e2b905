// SPDX-License-Identifier: BSD-3-Clause
// Latent attention in both forms, against the definition, and against each other.
#include <attend/attention/cached/latent_attention.hpp>
#include <attend/attention/softmax/rotary_embedding.hpp>
#include <attend/policy/mask/boolean_mask.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/key_lengths.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/reference/latent_attention.hpp>

#include "support/compare.hpp"
#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace extend;

namespace {

struct latent_sizes {
  index_t heads, tokens, plain, rotary, latent, values;
  std::vector<index_t> keys;  // of each sequence

  index_t sequences() const { return static_cast<index_t>(keys.size()); }
};

/// Projections are scaled so that keys and values are of the size of normal numbers.
template <class T, class C, class W>
struct latent_inputs {
  latent_sizes s;
  test::tensor<T, 4> query = test::normal<T, 4>({s.sequences(), s.heads, s.tokens, s.plain + s.rotary}, 1);
  test::tensor<W, 3> key = test::normal<W, 3>({s.heads, s.plain, s.latent}, 2, 1 / std::sqrt(double(s.latent)));
  test::tensor<W, 3> value = test::normal<W, 3>({s.heads, s.values, s.latent}, 3, 1 / std::sqrt(double(s.latent)));
  std::vector<test::tensor<C, 2>> latent, rotary_key;
  latent_cache<C> cache;

  explicit latent_inputs(latent_sizes const& sizes)
      : s(sizes), cache({s.sequences(), s.latent, s.rotary}, *std::max_element(s.keys.begin(), s.keys.end())) {
    for (index_t i = 0; i < s.sequences(); ++i) {
      index_t const keys = s.keys[static_cast<std::size_t>(i)];
      latent.push_back(test::normal<C, 2>({keys, s.latent}, 10 + static_cast<unsigned>(i)));
      rotary_key.push_back(test::normal<C, 2>({keys, s.rotary}, 20 + static_cast<unsigned>(i)));
      cache.append(i, latent.back().view(), rotary_key.back().view());
    }
  }

  latent_projections<W> up() const { return {key.view(), value.view()}; }
  test::tensor<T, 4> output() const { return test::filled<T, 4>({s.sequences(), s.heads, s.tokens, s.values}, T(7)); }

  template <class... Options>
  test::tensor<T, 4> attend_to(Options&&... options) const {
    auto o = output();
    latent_attention(query.view(), cache, up(), o.view(), options...);
    return o;
  }

  std::vector<double> expected(reference::options const& with = {}) const {
    std::vector<double> all;
    index_t const size = s.heads * s.tokens * (s.plain + s.rotary);
    for (index_t i = 0; i < s.sequences(); ++i) {
      auto const o = reference::latent_attention<T, C, W>(
          tensor_view<T const, 3>(query.elements.data() + i * size, {s.heads, s.tokens, s.plain + s.rotary}),
          latent[static_cast<std::size_t>(i)].view(), rotary_key[static_cast<std::size_t>(i)].view(), key.view(),
          value.view(), with);
      all.insert(all.end(), o.begin(), o.end());
    }
    return all;
  }
};

/// Values are sums of latents, and the projections two more sums: three times the error of plain attention, of values
/// as large as the latents' norms make them.
template <class T>
double const allowed = 3 * test::tolerance<T>(6);

reference::options causal_definition() {
  reference::options with;
  with.visible = reference::causal_bottom_right();
  return with;
}

template <class T, class C, class W>
void expect_both_forms(latent_sizes const& s) {
  SCOPED_TRACE(testing::Message() << s.heads << " heads, " << s.tokens << " tokens, latent " << s.latent);
  latent_inputs<T, C, W> const in(s);
  auto const expected = in.expected(causal_definition());
  EXPECT_TRUE(test::near(in.attend_to(causal{}, absorbed{}).elements, expected, allowed<T>));
  EXPECT_TRUE(test::near(in.attend_to(causal{}, expanded{}).elements, expected, allowed<T>));
}

TEST(LatentAttention, BothFormsFollowTheDefinition) {
  expect_both_forms<float, float, float>({5, 3, 24, 8, 64, 16, {70, 9}});
  expect_both_forms<float, float, float>({2, 1, 5, 3, 21, 9, {33}});
  expect_both_forms<float, float, float>({128, 1, 16, 8, 32, 16, {40}});
  expect_both_forms<float, float, float>({3, 60, 16, 8, 32, 7, {100, 60, 5}});
  expect_both_forms<float, float, float>({1, 2, 1, 1, 1, 1, {3}});
  expect_both_forms<float, float, float>({4, 2, 8, 0, 16, 8, {12}});
}

TEST(LatentAttention, BothFormsFollowTheDefinitionInDouble) {
  expect_both_forms<double, double, double>({6, 4, 16, 8, 40, 12, {50, 3}});
}

TEST(LatentAttention, ElementsMayDiffer) {
  expect_both_forms<float, bfloat16, float>({4, 3, 16, 8, 32, 16, {65}});
  expect_both_forms<bfloat16, bfloat16, bfloat16>({4, 3, 16, 8, 32, 16, {65}});
}

TEST(LatentAttention, ManyKeysAreSplit) {
  latent_inputs<float, float, float> const in({9, 2, 16, 8, 32, 16, {3000, 1200}});
  auto const expected = in.expected(causal_definition());
  auto const alone = in.attend_to(causal{}, absorbed{});
  EXPECT_TRUE(test::near(alone.elements, expected, allowed<float>));
  EXPECT_TRUE(test::same_bits(alone.elements, in.attend_to(causal{}, absorbed{}, threads{3}).elements));
  auto const other = in.attend_to(causal{}, expanded{});
  EXPECT_TRUE(test::near(other.elements, expected, allowed<float>));
  EXPECT_TRUE(test::same_bits(other.elements, in.attend_to(causal{}, expanded{}, threads{3}).elements));
}

TEST(LatentAttention, HeadsAreTakenInChunks) {
  // More rows than are absorbed at once.
  latent_inputs<float, float, float> const in({40, 50, 8, 4, 16, 8, {60, 50}});
  EXPECT_TRUE(
      test::near(in.attend_to(causal{}, absorbed{}).elements, in.expected(causal_definition()), allowed<float>));
}

TEST(LatentAttention, TheShapeChoosesTheForm) {
  latent_inputs<float, float, float> const decoding({4, 1, 16, 8, 64, 16, {80}}), prefill({4, 60, 16, 8, 64, 16, {80}});
  EXPECT_TRUE(test::same_bits(decoding.attend_to().elements, decoding.attend_to(absorbed{}).elements));
  EXPECT_TRUE(test::same_bits(prefill.attend_to().elements, prefill.attend_to(expanded{}).elements));
}

TEST(LatentAttention, MasksAndScaleAreThoseOfSoftmaxAttention) {
  latent_inputs<float, float, float> const in({4, 6, 16, 8, 32, 16, {90}});
  reference::options with;
  with.scale = 0.3;
  with.visible = reference::sliding_window(20, 0);
  EXPECT_TRUE(
      test::near(in.attend_to(window{20, 0}, scale{0.3}, absorbed{}).elements, in.expected(with), allowed<float>));
  EXPECT_TRUE(
      test::near(in.attend_to(window{20, 0}, scale{0.3}, expanded{}).elements, in.expected(with), allowed<float>));
}

TEST(LatentAttention, RotatesTheLastChannelsOfQueries) {
  latent_inputs<float, float, float> in({3, 4, 10, 6, 24, 8, {30, 7}});
  rotary const settings(rotary_frequencies(6), rotary_layout::interleaved);
  auto const absorbed_rotating = in.attend_to(causal{}, settings, absorbed{});
  auto const expanded_rotating = in.attend_to(causal{}, settings, expanded{});
  for (index_t i = 0; i < 2; ++i) {
    auto const all = in.query.view();
    tensor_view<float, 4> const last(&all(i, 0, 0, 10), {1, 3, 4, 6}, all.strides());
    rotary_embedding(last, settings, last, in.cache.size(i) - 4);
  }
  EXPECT_TRUE(test::same_bits(absorbed_rotating.elements, in.attend_to(causal{}, absorbed{}).elements));
  EXPECT_TRUE(test::same_bits(expanded_rotating.elements, in.attend_to(causal{}, expanded{}).elements));
}

TEST(LatentAttention, ProjectionsMayBeSlicesOfOneTensor) {
  latent_inputs<float, float, float> const in({3, 2, 8, 4, 16, 5, {20}});
  auto both = test::filled<float, 3>({3, 13, 16}, 0);
  for (index_t h = 0; h < 3; ++h)
    for (index_t k = 0; k < 16; ++k) {
      for (index_t c = 0; c < 8; ++c) both.view()(h, c, k) = in.key.view()(h, c, k);
      for (index_t c = 0; c < 5; ++c) both.view()(h, 8 + c, k) = in.value.view()(h, c, k);
    }
  tensor_view<float const, 3> const key(both.elements.data(), {3, 8, 16}, {13 * 16, 16, 1}),
      value(both.elements.data() + 8 * 16, {3, 5, 16}, {13 * 16, 16, 1});
  auto o = in.output();
  latent_attention(in.query.view(), in.cache, latent_projections(key, value), o.view(), absorbed{});
  EXPECT_TRUE(test::same_bits(o.elements, in.attend_to(absorbed{}).elements));
}

// Masks are told of as many keys as the longest sequence has, and of nothing that depends on the form.
TEST(LatentAttention, MasksOfTensorsSuitBothFormsOrNone) {
  latent_inputs<float, float, float> const in({3, 3, 8, 4, 16, 5, {8, 5}});
  std::array<bool, 3 * 8> seen;
  for (std::size_t i = 0; i < seen.size(); ++i) seen[i] = i % 3 != 1;
  boolean_mask const some(tensor_view<bool const, 4>(seen.data(), {1, 1, 3, 8}));
  reference::options with;
  with.visible = [&](reference::place const& at) { return seen[static_cast<std::size_t>(at.query * 8 + at.key)]; };
  EXPECT_TRUE(test::near(in.attend_to(some, absorbed{}).elements, in.expected(with), allowed<float>));
  EXPECT_TRUE(test::near(in.attend_to(some, expanded{}).elements, in.expected(with), allowed<float>));
  with.visible = [](reference::place const& at) { return at.key < 6; };
  key_lengths const six(index_t{6});
  EXPECT_TRUE(test::near(in.attend_to(six, absorbed{}).elements, in.expected(with), allowed<float>));
  EXPECT_TRUE(test::near(in.attend_to(six, expanded{}).elements, in.expected(with), allowed<float>));
  std::array<index_t, 1> const of_one{5};
  auto o = in.output();
  auto const refuse = [&](auto form) {
    test::expect_error("key_lengths: expected one length for each of 2 sequences, got 1", [&] {
      latent_attention(in.query.view(), in.cache, in.up(), o.view(), key_lengths(of_one), form);
    });
  };
  refuse(absorbed{});
  refuse(expanded{});
  for (float x : o.elements) ASSERT_EQ(x, 7);
}

TEST(LatentAttention, EmptyCachesAndNoQueriesAreLegal) {
  latent_inputs<float, float, float> const none({3, 2, 8, 4, 16, 5, {0, 6}});
  for (auto const& o : {none.attend_to(absorbed{}), none.attend_to(expanded{})})
    for (index_t i = 0; i < 3 * 2 * 5; ++i) EXPECT_EQ(o.elements[static_cast<std::size_t>(i)], 0);
  latent_inputs<float, float, float> const no_query({3, 0, 8, 4, 16, 5, {6}});
  EXPECT_NO_THROW(no_query.attend_to());
}

TEST(LatentAttention, RefusesWhatDoesNotFit) {
  latent_inputs<float, float, float> const in({3, 2, 8, 4, 16, 5, {20, 10}});
  auto o = in.output();
  auto const expect_error = [&](std::string const& message, auto const& call) {
    test::expect_error(message, call);
    EXPECT_TRUE(std::all_of(o.elements.begin(), o.elements.end(), [](float x) { return x == 7; }));
  };
  auto const q = in.query.view();
  tensor_view<float const, 4> const one_sequence(q.data(), {1, 3, 2, 12}), narrow(q.data(), {2, 3, 2, 11});
  expect_error("query: expected sequences 2 (as the cache), got 1",
               [&] { latent_attention(one_sequence, in.cache, in.up(), o.view()); });
  expect_error("query: expected head dimension 12 (as keys: plain and rotary), got 11",
               [&] { latent_attention(narrow, in.cache, in.up(), o.view()); });
  tensor_view<float const, 3> const two_heads(in.key.elements.data(), {2, 8, 16}),
      short_latent(in.value.elements.data(), {3, 5, 15});
  expect_error("projections (key): expected heads 3 (as query), got 2",
               [&] { latent_attention(q, in.cache, latent_projections(two_heads, in.value.view()), o.view()); });
  expect_error("projections (value): expected latent dimension 16 (as the cache), got 15",
               [&] { latent_attention(q, in.cache, latent_projections(in.key.view(), short_latent), o.view()); });
  expect_error("output: expected head dimension 5 (as projections (value)), got 4",
               [&] { latent_attention(q, in.cache, in.up(), tensor_view<float, 4>(o.elements.data(), {2, 3, 2, 4})); });
  for (double const factor : {1e300, infinity<double>})
    expect_error("scale: expected a finite number, got inf",
                 [&] { latent_attention(q, in.cache, in.up(), o.view(), scale{factor}); });
  expect_error("rotary: expected at most 4 channels (the head dimension), got 6",
               [&] { latent_attention(q, in.cache, in.up(), o.view(), rotary(rotary_frequencies(6))); });
  expect_error("threads: expected a count of at least 0, got -2",
               [&] { latent_attention(q, in.cache, in.up(), o.view(), threads{-2}); });
  latent_cache<float> const shards({2, 16, 4, 2}, 3);
  expect_error("cache: expected one shard, got 2", [&] { latent_attention(q, shards, in.up(), o.view()); });
}

}  // namespace
}  // namespace attend
