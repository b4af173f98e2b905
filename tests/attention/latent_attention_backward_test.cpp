// SPDX-License-Identifier: BSD-3-Clause
// Gradients of latent attention against their definition in double, and the definition against difference quotients.
#include <attend/attention/cached/latent_attention_backward.hpp>
#include <attend/policy/mask/boolean_mask.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/precision.hpp>
#include <attend/reference/latent_attention.hpp>
#include <attend/reference/softmax_backward.hpp>
#include <numeric>

#include "support/compare.hpp"
#include "support/count_allocations.hpp"
#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend::test {
namespace {
using namespace caches;

struct latent_sizes {
  index_t batches = 1, heads = 1, queries = 1, keys = 1, plain = 8, rotary = 4, latent = 16, values = 8;
};

/// Numbers of all tensors; projections are scaled so that keys and values are of the size of normal numbers.
template <class T>
struct latent_inputs {
  latent_sizes s;
  tensor<T, 4> query = normal<T, 4>({s.batches, s.heads, s.queries, s.plain + s.rotary}, 1);
  tensor<T, 3> latent = normal<T, 3>({s.batches, s.keys, s.latent}, 2);
  tensor<T, 3> rotary_key = normal<T, 3>({s.batches, s.keys, s.rotary}, 3);
  tensor<T, 3> key = normal<T, 3>({s.heads, s.plain, s.latent}, 4, deviation());
  tensor<T, 3> value = normal<T, 3>({s.heads, s.values, s.latent}, 5, deviation());
  tensor<T, 4> of_output = normal<T, 4>({s.batches, s.heads, s.queries, s.values}, 6);

  explicit latent_inputs(latent_sizes const& sizes) : s(sizes) {}
  double deviation() const { return 1 / std::sqrt(std::max(double(s.latent), 1.0)); }

  tensor_view<T const, 3> query_of(index_t batch) const { return of(query, batch); }
  tensor_view<T const, 2> latent_of(index_t batch) const { return of(latent, batch); }
  tensor_view<T const, 2> rotary_key_of(index_t batch) const { return of(rotary_key, batch); }

 private:
  template <int Rank>
  static tensor_view<T const, Rank - 1> of(tensor<T, Rank> const& all, index_t batch) {
    std::array<index_t, array_size(Rank - 1)> extents;
    std::copy(all.extents.begin() + 1, all.extents.end(), extents.begin());
    index_t const size = std::accumulate(extents.begin(), extents.end(), index_t{1}, std::multiplies<index_t>());
    return {all.elements.data() + batch * size, extents};
  }
};

template <class T>
struct latent_gradients {
  tensor<T, 4> query;
  tensor<T, 3> latent, rotary_key, key, value;

  explicit latent_gradients(latent_inputs<T> const& in)
      : query(filled<T, 4>(in.query.extents, T(7))),
        latent(filled<T, 3>(in.latent.extents, T(7))),
        rotary_key(filled<T, 3>(in.rotary_key.extents, T(7))),
        key(filled<T, 3>(in.key.extents, T(7))),
        value(filled<T, 3>(in.value.extents, T(7))) {}

  auto all() const {
    return std::array{&query.elements, &latent.elements, &rotary_key.elements, &key.elements, &value.elements};
  }
};

/// The gradients by definition, and for each the largest sum of its terms' magnitudes.
struct defined_gradients {
  std::array<std::vector<double>, 5> all;
  std::array<double, 5> terms{};
};

/// The formulas in double: keys and values are written out, softmax_backward gives theirs, and sums those of latents.
template <class T>
defined_gradients definition(latent_inputs<T> const& in, reference::options const& with = {}) {
  auto const& s = in.s;
  defined_gradients sum;
  index_t const sizes[] = {s.batches * s.heads * s.queries * (s.plain + s.rotary), s.batches * s.keys * s.latent,
                           s.batches * s.keys * s.rotary, s.heads * s.plain * s.latent, s.heads * s.values * s.latent};
  std::array<std::vector<double>, 5> terms;
  for (std::size_t i = 0; i < 5; ++i) terms[i] = sum.all[i] = std::vector<double>(static_cast<std::size_t>(sizes[i]));
  auto const add = [&](std::size_t which, index_t at, double factor, double gradient, double terms_of_gradient) {
    if (gradient == 0) return;  // of what nobody sees, whose latent may be NaN
    sum.all[which][static_cast<std::size_t>(at)] += factor * gradient;
    terms[which][static_cast<std::size_t>(at)] += std::abs(factor) * terms_of_gradient;
  };
  index_t const dimension = s.plain + s.rotary;
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.heads; ++h) {
      std::vector<double> const plain = reference::from_latents(in.latent_of(b), in.key.view(), h),
                                value = reference::from_latents(in.latent_of(b), in.value.view(), h);
      auto key = filled<double, 4>({1, 1, s.keys, dimension}, 0),
           query = filled<double, 4>({1, 1, s.queries, dimension}, 0),
           of_output = filled<double, 4>({1, 1, s.queries, s.values}, 0);
      for (index_t j = 0; j < s.keys; ++j)
        for (index_t c = 0; c < dimension; ++c)
          key.view()(0, 0, j, c) = c < s.plain ? plain[static_cast<std::size_t>(j * s.plain + c)]
                                               : static_cast<double>(in.rotary_key.view()(b, j, c - s.plain));
      for (index_t i = 0; i < s.queries; ++i) {
        for (index_t c = 0; c < dimension; ++c)
          query.view()(0, 0, i, c) = static_cast<double>(in.query.view()(b, h, i, c));
        for (index_t c = 0; c < s.values; ++c)
          of_output.view()(0, 0, i, c) = static_cast<double>(in.of_output.view()(b, h, i, c));
      }
      auto const of_head = reference::softmax_backward<double>(std::as_const(query).view(), std::as_const(key).view(),
                                                               {value.data(), {1, 1, s.keys, s.values}},
                                                               std::as_const(of_output).view(), with);
      for (index_t i = 0; i < s.queries * dimension; ++i)
        add(0, (b * s.heads + h) * s.queries * dimension + i, 1, of_head.query[static_cast<std::size_t>(i)],
            of_head.query_terms);
      for (index_t j = 0; j < s.keys; ++j) {
        for (index_t c = 0; c < dimension; ++c) {
          double const gradient = of_head.key[static_cast<std::size_t>(j * dimension + c)];
          if (c >= s.plain) add(2, (b * s.keys + j) * s.rotary + c - s.plain, 1, gradient, of_head.key_terms);
          for (index_t k = 0; c < s.plain && k < s.latent; ++k) {
            add(1, (b * s.keys + j) * s.latent + k, static_cast<double>(in.key.view()(h, c, k)), gradient,
                of_head.key_terms);
            add(3, (h * s.plain + c) * s.latent + k, static_cast<double>(in.latent.view()(b, j, k)), gradient,
                of_head.key_terms);
          }
        }
        for (index_t c = 0; c < s.values; ++c) {
          double const gradient = of_head.value[static_cast<std::size_t>(j * s.values + c)];
          for (index_t k = 0; k < s.latent; ++k) {
            add(1, (b * s.keys + j) * s.latent + k, static_cast<double>(in.value.view()(h, c, k)), gradient,
                of_head.value_terms);
            add(4, (h * s.values + c) * s.latent + k, static_cast<double>(in.latent.view()(b, j, k)), gradient,
                of_head.value_terms);
          }
        }
      }
    }
  for (std::size_t i = 0; i < 5; ++i)
    if (!terms[i].empty()) sum.terms[i] = *std::max_element(terms[i].begin(), terms[i].end());
  return sum;
}

/// The gradients of a call, whose output and log-sum-exp the forward call gives.
template <class T, class... Options>
latent_gradients<T> gradients_of(latent_inputs<T> const& in, Options const&... options) {
  using A = accumulation_t<T>;
  auto const& s = in.s;
  latent_cache<T> cache({s.batches, s.latent, s.rotary}, s.keys);
  for (index_t b = 0; b < s.batches; ++b) cache.append(b, in.latent_of(b), in.rotary_key_of(b));
  auto output = filled<T, 4>(in.of_output.extents, T(7));
  auto lse = filled<A, 3>({s.batches, s.heads, s.queries}, A(7));
  latent_projections const up(in.key.view(), in.value.view());
  latent_attention(in.query.view(), cache, up, output.view(), expanded{}, log_sum_exp(lse.view()), full_precision{},
                   options...);
  latent_gradients<T> got(in);
  latent_attention_backward(in.query.view(), in.latent.view(), in.rotary_key.view(), up, output.view(), lse.view(),
                            in.of_output.view(), got.query.view(), got.latent.view(), got.rotary_key.view(),
                            latent_projection_gradients(got.key.view(), got.value.view()), options...);
  return got;
}

/// Keys and values are sums of latents, whose rounding the gradients see once more: three times the error of those of
/// plain attention. An output of 16 bits is rounded before the gradients of queries and keys read it.
template <class T, class... Options>
void expect_definition(latent_inputs<T> const& in, reference::options const& with, Options const&... options) {
  auto const got = gradients_of(in, options...);
  auto const expected = definition(in, with);
  char const* const names[] = {"query", "latent", "rotary key", "key projection", "value projection"};
  for (std::size_t i = 0; i < 5; ++i)
    EXPECT_TRUE(near(*got.all()[i], expected.all[i], 3 * tolerance<T>(expected.terms[i]))) << names[i];
}

reference::options causal_definition() {
  reference::options with;
  with.visible = reference::causal_bottom_right();
  return with;
}

TEST(LatentBackward, FollowsTheDefinition) {
  for (latent_sizes const& s : {latent_sizes{.keys = 3, .plain = 1, .rotary = 1, .latent = 1, .values = 1},
                                {2, 3, 7, 21, 5, 3, 21, 9},
                                {1, 5, 70, 70, 24, 8, 64, 16},
                                {1, 2, 3, 290, 33, 6, 40, 20},      // tokens of several tasks
                                {1, 2, 9, 40, 140, 8, 24, 130}}) {  // rows of several tasks
    SCOPED_TRACE(testing::Message() << s.queries << " queries, " << s.keys << " keys");
    latent_inputs<float> const in(s);
    expect_definition(in, {});
    expect_definition(in, causal_definition(), causal{});
  }
}

TEST(LatentBackward, FollowsTheDefinitionInOtherTypes) {
  latent_sizes const s{2, 3, 40, 60, 16, 8, 32, 12};
  expect_definition(latent_inputs<double>(s), causal_definition(), causal{});
  expect_definition(latent_inputs<bfloat16>(s), causal_definition(), causal{});
  expect_definition(latent_inputs<half>(s), causal_definition(), causal{});
}

TEST(LatentBackward, MasksAndScaleAreThoseOfTheCall) {
  latent_inputs<float> const in({2, 3, 50, 90, 16, 8, 32, 12});
  reference::options with;
  with.scale = 0.3;
  with.visible = reference::sliding_window(20, 0);
  expect_definition(in, with, window{20, 0}, scale{0.3});
}

TEST(LatentBackward, PartsMayHaveNoChannels) {
  for (latent_sizes const& s : {latent_sizes{2, 3, 5, 9, 8, 0, 16, 8},
                                {2, 3, 5, 9, 0, 4, 16, 8},
                                {1, 3, 5, 9, 8, 4, 16, 0},
                                {1, 3, 5, 9, 8, 4, 0, 8}})
    expect_definition(latent_inputs<float>(s), {});
}

TEST(LatentBackward, SumsOfNothingAreZero) {
  for (latent_sizes const& s :
       {latent_sizes{.keys = 0}, {.queries = 0, .keys = 5}, {.heads = 0, .keys = 5}, {.batches = 0, .keys = 5}}) {
    auto const got = gradients_of(latent_inputs<float>(s));
    for (auto const* gradient : got.all())
      EXPECT_TRUE(std::all_of(gradient->begin(), gradient->end(), [](float x) { return x == 0; }));
  }
}

TEST(LatentBackward, WhatNobodySeesAddsNothing) {
  latent_inputs<float> in({1, 2, 30, 60, 8, 4, 16, 8});
  float const nan = std::numeric_limits<float>::quiet_NaN();
  std::fill_n(&in.latent.view()(0, 40, 0), 16, nan);
  std::fill_n(&in.rotary_key.view()(0, 40, 0), 4, nan);
  std::fill_n(&in.query.view()(0, 1, 7, 0), 12, nan);
  std::fill_n(&in.of_output.view()(0, 1, 7, 0), 8, nan);
  reference::options with;
  with.visible = [](reference::place const& at) { return at.position() != 37 && at.key != 40; };
  expect_definition(in, with, mask([](auto query, auto key) { return (query != 37) & (key != 40); }));
}

TEST(LatentBackward, BitsAreTheSameForAnyThreadsAndBatch) {
  // So many keys that heads are taken two and one at a time.
  latent_sizes s{2, 3, 40, 6000, 4, 2, 8, 4};
  latent_inputs<float> const in(s);
  auto const one = gradients_of(in, causal{}, threads{1}), several = gradients_of(in, causal{}, threads{3});
  for (std::size_t i = 0; i < 5; ++i) EXPECT_TRUE(same_bits(*one.all()[i], *several.all()[i])) << i;
  s.batches = 1;
  auto const alone = gradients_of(latent_inputs<float>(s), causal{});
  EXPECT_TRUE(std::equal(alone.query.elements.begin(), alone.query.elements.end(), one.query.elements.begin()));
  EXPECT_TRUE(std::equal(alone.latent.elements.begin(), alone.latent.elements.end(), one.latent.elements.begin()));
  expect_definition(in, causal_definition(), causal{}, threads{2});
}

// Heads within tokens, and projections that are slices of one tensor, as are their gradients.
TEST(LatentBackward, StridesAreFreeAndNothingIsAllocatedAgain) {
  latent_inputs<float> const in({2, 3, 40, 50, 8, 4, 16, 5});
  auto const output = filled<float, 4>(in.of_output.extents, 0.5f);
  auto const lse = filled<float, 3>({2, 3, 40}, 4.f);
  auto const call = [&](auto const& query, auto const& up, auto const& of_query, auto const& of_latent,
                        auto const& of_rotary_key, auto const& of_up) {
    latent_attention_backward(query, in.latent.view(), in.rotary_key.view(), up, output.view(), lse.view(),
                              in.of_output.view(), of_query, of_latent, of_rotary_key, of_up, causal{});
  };
  latent_gradients<float> plain(in), strided(in);
  call(in.query.view(), latent_projections(in.key.view(), in.value.view()), plain.query.view(), plain.latent.view(),
       plain.rotary_key.view(), latent_projection_gradients(plain.key.view(), plain.value.view()));

  std::vector<float> query(in.query.elements.size()), of_query(query.size()), both(3 * 13 * 16), of_both(both.size());
  auto const by_token = [](std::vector<float>& all) {
    return tensor_view<float, 4>(all.data(), {2, 3, 40, 12}, {40 * 3 * 12, 12, 3 * 12, 1});
  };
  auto const key_of = [](std::vector<float>& all) {
    return tensor_view<float, 3>(all.data(), {3, 8, 16}, {13 * 16, 16, 1});
  };
  auto const value_of = [](std::vector<float>& all) {
    return tensor_view<float, 3>(all.data() + 8 * 16, {3, 5, 16}, {13 * 16, 16, 1});
  };
  auto const copy = [](auto const& from, auto const& to) {
    auto const source = raise<4>(from);
    auto const target = raise<4>(to);
    for (index_t a = 0; a < source.extent(0); ++a)
      for (index_t b = 0; b < source.extent(1); ++b)
        for (index_t c = 0; c < source.extent(2); ++c)
          std::copy_n(&source(a, b, c, 0), source.extent(3), &target(a, b, c, 0));
  };
  copy(in.query.view(), by_token(query));
  copy(in.key.view(), key_of(both));
  copy(in.value.view(), value_of(both));
  call(by_token(query), latent_projections(key_of(both), value_of(both)), by_token(of_query), strided.latent.view(),
       strided.rotary_key.view(), latent_projection_gradients(key_of(of_both), value_of(of_both)));
  copy(by_token(of_query), strided.query.view());
  copy(key_of(of_both), strided.key.view());
  copy(value_of(of_both), strided.value.view());
  for (std::size_t i = 0; i < 5; ++i) EXPECT_TRUE(same_bits(*plain.all()[i], *strided.all()[i])) << i;

  long const before = allocations;
  call(in.query.view(), latent_projections(in.key.view(), in.value.view()), plain.query.view(), plain.latent.view(),
       plain.rotary_key.view(), latent_projection_gradients(plain.key.view(), plain.value.view()));
  EXPECT_EQ(allocations, before) << "after the first call";
}

TEST(LatentBackward, ItsLogSumExpIsThatOfBothForms) {
  latent_inputs<float> const in({2, 40, 50, 60, 8, 4, 16, 8});
  latent_cache<float> cache({2, 16, 4}, 60);
  for (index_t b = 0; b < 2; ++b) cache.append(b, in.latent_of(b), in.rotary_key_of(b));
  auto output = filled<float, 4>(in.of_output.extents, 7);
  std::array both{filled<float, 3>({2, 40, 50}, 7), filled<float, 3>({2, 40, 50}, 7)};
  latent_projections const up(in.key.view(), in.value.view());
  latent_attention(in.query.view(), cache, up, output.view(), expanded{}, causal{}, log_sum_exp(both[0].view()));
  latent_attention(in.query.view(), cache, up, output.view(), absorbed{}, causal{}, log_sum_exp(both[1].view()));
  std::vector<double> expected;
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 40; ++h) {
      std::vector<double> const plain = reference::from_latents(in.latent_of(b), in.key.view(), h);
      for (index_t i = 0; i < 50; ++i) {
        double sum = 0;
        for (index_t j = 0; j <= i + 10; ++j) {
          double logit = 0;
          for (index_t c = 0; c < 12; ++c)
            logit += static_cast<double>(in.query.view()(b, h, i, c)) *
                     (c < 8 ? plain[static_cast<std::size_t>(j * 8 + c)]
                            : static_cast<double>(in.rotary_key.view()(b, j, c - 8)));
          sum += std::exp(logit / std::sqrt(12.0));
        }
        expected.push_back(std::log(sum));
      }
    }
  for (auto const& lse : both) EXPECT_TRUE(near(lse.elements, expected, 3 * tolerance<float>(6)));
  test::expect_error("log_sum_exp: expected tokens 50 (as query), got 49", [&] {
    latent_attention(in.query.view(), cache, up, output.view(),
                     log_sum_exp(tensor_view<float, 3>(both[0].elements.data(), {2, 40, 49})));
  });
  test::expect_error("log_sum_exp: expected memory of its own, got memory that overlaps output", [&] {
    latent_attention(in.query.view(), cache, up, output.view(),
                     log_sum_exp(tensor_view<float, 3>(output.elements.data(), {2, 40, 50})));
  });
}

TEST(LatentBackwardDefinition, IsThatOfDifferenceQuotients) {
  latent_inputs<double> in({2, 2, 4, 6, 3, 2, 5, 2});
  auto const with = causal_definition();
  auto const loss = [&] {
    double sum = 0;
    for (index_t b = 0; b < 2; ++b) {
      auto const o = reference::latent_attention<double, double, double>(
          in.query_of(b), in.latent_of(b), in.rotary_key_of(b), in.key.view(), in.value.view(), with);
      sum += std::inner_product(o.begin(), o.end(), &in.of_output.view()(b, 0, 0, 0), 0.0);
    }
    return sum;
  };
  auto const expected = definition(in, with);
  std::size_t which = 0;
  for (auto* elements :
       {&in.query.elements, &in.latent.elements, &in.rotary_key.elements, &in.key.elements, &in.value.elements}) {
    auto const& gradient = expected.all[which++];
    ASSERT_EQ(gradient.size(), elements->size());
    for (std::size_t i = 0; i < elements->size(); ++i) {
      double const x = std::exchange((*elements)[i], (*elements)[i] + 1e-5), above = loss();
      (*elements)[i] = x - 1e-5;
      double const below = loss();
      (*elements)[i] = x;
      EXPECT_NEAR(gradient[i], (above - below) / 2e-5, 1e-8) << which << ' ' << i;
    }
  }
}

TEST(LatentBackward, ArgumentsThatDoNotFitAreNamed) {
  latent_inputs<float> const in({2, 3, 2, 9, 8, 4, 16, 5});
  latent_gradients<float> got(in);
  auto output = filled<float, 4>(in.of_output.extents, 0);
  auto lse = filled<float, 3>({2, 3, 2}, 0);
  using read3 = tensor_view<float const, 3>;
  using read4 = tensor_view<float const, 4>;
  struct arguments {
    read4 q;
    read3 latent, rotary_key, key, value;
    read4 o;
    read3 lse;
    read4 of_o;
    tensor_view<float, 4> of_q;
    tensor_view<float, 3> of_latent, of_rotary_key, of_key, of_value;
  };
  arguments const good{
      in.query.view(),       in.latent.view(), in.rotary_key.view(), in.key.view(),    in.value.view(),
      output.view(),         lse.view(),       in.of_output.view(),  got.query.view(), got.latent.view(),
      got.rotary_key.view(), got.key.view(),   got.value.view()};
  auto const call = [](arguments const& a, auto const&... options) {
    latent_attention_backward(a.q, a.latent, a.rotary_key, latent_projections(a.key, a.value), a.o, a.lse, a.of_o,
                              a.of_q, a.of_latent, a.of_rotary_key, latent_projection_gradients(a.of_key, a.of_value),
                              options...);
  };
  auto const untouched = [&](std::string const& message) {
    for (auto const* gradient : got.all())
      EXPECT_TRUE(std::all_of(gradient->begin(), gradient->end(), [](float x) { return x == 7; })) << message;
  };
  // One axis of a tensor is one shorter.
  auto const expect_short = [&](std::string const& message, auto member, int axis) {
    arguments wrong = good;
    auto& view = wrong.*member;
    auto extents = view.extents();
    extents[static_cast<std::size_t>(axis)] -= 1;
    view = {view.data(), extents, view.strides()};
    test::expect_error(message, [&] { call(wrong); });
    untouched(message);
  };
  expect_short("query: expected head dimension 12 (as keys: plain and rotary), got 11", &arguments::q, 3);
  expect_short("latent: expected batch 2 (as query), got 1", &arguments::latent, 0);
  expect_short("rotary_key: expected tokens 9 (as latent), got 8", &arguments::rotary_key, 1);
  expect_short("projections (key): expected heads 3 (as query), got 2", &arguments::key, 0);
  expect_short("projections (value): expected latent dimension 16 (as latent), got 15", &arguments::value, 2);
  expect_short("output: expected tokens 2 (as query), got 1", &arguments::o, 2);
  expect_short("log_sum_exp: expected heads 3 (as query), got 2", &arguments::lse, 1);
  expect_short("of_output: expected head dimension 5 (as value), got 4", &arguments::of_o, 3);
  expect_short("of_query: expected shape [2, 3, 2, 12], got [2, 3, 1, 12]", &arguments::of_q, 2);
  expect_short("of_latent: expected shape [2, 9, 16], got [2, 9, 15]", &arguments::of_latent, 2);
  expect_short("of_rotary_key: expected shape [2, 9, 4], got [1, 9, 4]", &arguments::of_rotary_key, 0);
  expect_short("of_projections (key): expected shape [3, 8, 16], got [3, 7, 16]", &arguments::of_key, 1);
  expect_short("of_projections (value): expected shape [3, 5, 16], got [2, 5, 16]", &arguments::of_value, 0);

  auto const expect = [&](std::string const& message, auto const& run) {
    test::expect_error(message, run);
    untouched(message);
  };
  arguments shared = good;
  shared.of_key = {got.latent.elements.data(), shared.key.extents()};
  expect("of_projections (key): expected memory of its own, got memory that overlaps of_latent", [&] { call(shared); });
  test::expect_scale_error([&](auto const& factor) { call(good, factor); });
  std::array<bool, 3 * 2 * 9> seen{};
  boolean_mask const of_heads(tensor_view<bool const, 4>(seen.data(), {1, 3, 2, 9}));
  expect("boolean_mask: expected shape [1, 1, 2, 9] with 1 for an axis that is shared, got [1, 3, 2, 9]",
         [&] { call(good, of_heads); });
  expect("threads: expected a count of at least 0, got -2", [&] { call(good, threads{-2}); });
}

}  // namespace
}  // namespace attend::test
