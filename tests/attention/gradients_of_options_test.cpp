// SPDX-License-Identifier: BSD-3-Clause
// Gradients of options of softmax attention against their definition in double, and by identities.
#include <gtest/gtest.h>

#include <attend/attend.hpp>
#include <attend/attention/softmax/softmax_attention_backward.hpp>
#include <attend/reference/softmax_backward.hpp>

#include "support/argument_errors.hpp"
#include "support/training.hpp"

namespace attend::test {
namespace {

sizes const some{.batches = 2,
                 .query_heads = 4,
                 .key_heads = 2,
                 .value_heads = 4,
                 .queries = 50,
                 .keys = 131,
                 .key_dimension = 12,
                 .value_dimension = 10};

/// Sums of numbers [batch, head, query, key] over the axes that have fewer places in `kept`, and the largest of those
/// of magnitudes.
struct shared_sums {
  std::vector<double> sums;
  double terms = 0;
};
shared_sums over_shared_axes(sizes const& s, std::vector<double> const& numbers, std::vector<double> const& magnitudes,
                             std::array<index_t, 4> const& kept) {
  shared_sums all{std::vector<double>(static_cast<std::size_t>(kept[0] * kept[1] * kept[2] * kept[3]))};
  std::vector<double> terms = all.sums;
  std::size_t n = 0;
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.query_heads; ++h)
      for (index_t i = 0; i < s.queries; ++i)
        for (index_t j = 0; j < s.keys; ++j, ++n) {
          index_t const place[] = {b * kept[0] / s.batches, h * kept[1] / s.query_heads, i * kept[2] / s.queries,
                                   j * kept[3] / s.keys};
          auto const to =
              static_cast<std::size_t>(((place[0] * kept[1] + place[1]) * kept[2] + place[2]) * kept[3] + place[3]);
          all.sums[to] += numbers[n];
          terms[to] += magnitudes[n];
        }
  for (double x : terms) all.terms = std::max(all.terms, x);
  return all;
}

template <class T>
void expect_sinks_and_sums(unsigned seed) {
  using A = accumulation_t<T>;
  training<T> t(some, seed);
  std::vector<A> const logits{A(0.5), A(-1), A(3), A(0)};
  auto const of_sums = normal<A, 3>({2, 4, 50}, 9);
  reference::options with;
  with.visible = reference::causal_bottom_right();
  with.sink = [&](index_t head) { return static_cast<double>(logits[static_cast<std::size_t>(head)]); };
  auto const pairs = normal<A, 2>({50, 131}, 8);
  auto of_pairs = filled<A, 2>(pairs.extents, A(7));
  with.scores = {
      [&](double s, reference::place const& at) { return s + static_cast<double>(pairs.view()(at.query, at.key)); }};
  auto const expected =
      t.expected(with, [&](index_t b, index_t h, index_t i) { return static_cast<double>(of_sums.view()(b, h, i)); });
  std::vector<A> of_sinks(4, A(7));
  t.forward(causal{}, bias(pairs.view()), sinks(logits));
  t.backward(causal{}, bias(pairs.view()), sinks(logits), of_log_sum_exp(of_sums.view()), gradient_of_sinks(of_sinks),
             gradient_of_bias(of_pairs.view()));
  // Slopes of the definition are difference quotients, whose rounding double sees.
  double const of_quotients = std::same_as<T, double> ? 1e4 : 1;
  t.expect_tensors(expected, of_quotients);
  auto const sums = over_shared_axes(some, expected.scores[0].after, expected.scores[0].terms, {1, 1, 50, 131});
  EXPECT_TRUE(near(of_pairs.elements, sums.sums, 2 * of_quotients * tolerance<T>(sums.terms)));
  double const most = *std::max_element(expected.sink_terms.begin(), expected.sink_terms.end());
  EXPECT_TRUE(near(of_sinks, expected.sink, 2 * tolerance<T>(most)));
}

TEST(GradientsOfOptions, SinksSumsAndABiasOfAnyElement) {
  expect_sinks_and_sums<float>(1);
  expect_sinks_and_sums<double>(2);
  expect_sinks_and_sums<bfloat16>(3);
}

TEST(GradientsOfOptions, ASinkThatAllHeadsShare) {
  training<float> t(some, 4);
  reference::options with;
  with.sink = [](index_t) { return 0.5; };
  auto const expected = t.expected(with);
  std::vector<float> of_sink(1, 7);
  t.forward(sinks(0.5));
  t.backward(sinks(0.5), gradient_of_sinks(of_sink));
  double const sum = std::accumulate(expected.sink.begin(), expected.sink.end(), 0.0);
  EXPECT_NEAR(of_sink[0], sum,
              tolerance<float>(std::accumulate(expected.sink_terms.begin(), expected.sink_terms.end(), 0.0)));
}

TEST(GradientsOfOptions, TemperaturesOfHeadsAndQueries) {
  training<float> t(some, 5);
  auto const head_factors = normal<float, 1>({4}, 6);
  reference::options with;
  with.visible = reference::sliding_window(50, 5);
  auto const capped = [](double s, reference::place const&) { return 3 * std::tanh(s / 3); };
  with.scores = {capped,
                 [&](double s, reference::place const& at) {
                   return s * static_cast<double>(head_factors.elements[static_cast<std::size_t>(at.head)]);
                 },
                 capped};
  auto const expect = [&](std::array<index_t, 3> const& kept, auto const& factors, auto const& written,
                          std::vector<float> const& got) {
    auto expected = t.expected(with);
    for (std::size_t n = 0; n < expected.scores[1].after.size(); ++n) {
      // The score after it passes the gradient on.
      expected.scores[1].after[n] *= expected.scores[1].before[n];
      expected.scores[1].terms[n] *= std::abs(expected.scores[1].before[n]);
    }
    auto const sums =
        over_shared_axes(some, expected.scores[1].after, expected.scores[1].terms, {kept[0], kept[1], kept[2], 1});
    t.forward(window{50, 5}, softcap{3.}, factors, softcap{3.});
    t.backward(window{50, 5}, softcap{3.}, factors, softcap{3.}, written);
    t.expect_tensors(expected, 4);
    EXPECT_TRUE(near(got, sums.sums, 4 * tolerance<float>(sums.terms)));
  };
  std::vector<float> of_heads(4, 7);
  expect({1, 4, 1}, head_logit_scale(head_factors.view()), gradient_of_logit_scale(of_heads), of_heads);
  for (std::array<index_t, 3> const& kept : {std::array<index_t, 3>{2, 4, 50}, {1, 1, 50}, {2, 1, 1}, {1, 4, 50}}) {
    auto const factors = normal<float, 3>(kept, 7);
    with.scores[1] = [&](double s, reference::place const& at) {
      return s * static_cast<double>(
                     factors.view()(at.batch * kept[0] / 2, at.head * kept[1] / 4, at.query * kept[2] / 50));
    };
    auto written = filled<float, 3>(kept, 7);
    expect(kept, query_logit_scale(factors.view()), gradient_of_logit_scale(written.view()), written.elements);
  }
}

// A bias of each of the shapes; each with scores before and after it, or none.
TEST(GradientsOfOptions, BiasesWithAxesShared) {
  unsigned seed = 10;
  for (std::array<index_t, 4> const& kept : {std::array<index_t, 4>{2, 4, 50, 131},
                                             {1, 4, 50, 131},
                                             {2, 2, 50, 131},
                                             {1, 2, 50, 131},
                                             {2, 1, 50, 131},
                                             {1, 1, 50, 131},
                                             {2, 4, 1, 131},
                                             {1, 2, 1, 131},
                                             {1, 1, 50, 1},
                                             {2, 4, 50, 1},
                                             {1, 4, 1, 1},
                                             {1, 1, 1, 1}}) {
    training<float> t(some, ++seed);
    auto const pairs = normal<float, 4>(kept, ++seed);
    auto written = filled<float, 4>(kept, 7);
    reference::options with;
    with.visible = reference::causal_bottom_right();
    with.scores = {[&](double s, reference::place const& at) {
      return s + static_cast<double>(pairs.view()(at.batch * kept[0] / 2, at.head * kept[1] / 4,
                                                  at.query * kept[2] / 50, at.key * kept[3] / 131));
    }};
    auto const expect = [&](std::size_t score, auto const&... options) {
      auto const expected = t.expected(with);
      auto const sums = over_shared_axes(some, expected.scores[score].after, expected.scores[score].terms, kept);
      t.forward(causal{}, options...);
      t.backward(causal{}, options..., gradient_of_bias(written.view()));
      t.expect_tensors(expected, 2);
      EXPECT_TRUE(near(written.elements, sums.sums, 2 * tolerance<float>(sums.terms))) << seed;
    };
    expect(0, bias(pairs.view()));
    if (seed % 4 == 0) continue;  // the others tell as much
    auto const capped = [](double s, reference::place const&) { return 2 * std::tanh(s / 2); };
    with.scores = {capped, with.scores[0], capped};
    expect(1, softcap{2.}, bias(pairs.view()), softcap{2.});
  }
}

// Columns for the first keys alone, even if that is one.
TEST(GradientsOfOptions, BiasesThatArePadded) {
  for (index_t const columns : {100, 1}) {
    training<float> t(some, 40);
    auto const pairs = normal<float, 4>({1, 4, 50, columns}, 41);
    auto written = filled<float, 4>(pairs.extents, 7);
    reference::options with;
    with.visible = [&](reference::place const& at) { return at.key < columns; };
    with.scores = {[&](double s, reference::place const& at) {
      return at.key < columns ? s + static_cast<double>(pairs.view()(0, at.head, at.query, at.key)) : s;
    }};
    auto const expected = t.expected(with);
    auto const whole = over_shared_axes(some, expected.scores[0].after, expected.scores[0].terms, {1, 4, 50, 131});
    t.forward(bias(pairs.view()).padded());
    t.backward(bias(pairs.view()).padded(), gradient_of_bias(written.view()));
    t.expect_tensors(expected);
    for (index_t row = 0; row < 200; ++row)
      for (index_t j = 0; j < columns; ++j)
        EXPECT_NEAR(written.elements[static_cast<std::size_t>(row * columns + j)],
                    whole.sums[static_cast<std::size_t>(row * 131 + j)], tolerance<float>(whole.terms));
  }
}

// Batches and heads that share a bias, of different lengths, with enough tokens for several ranges.
TEST(GradientsOfOptions, BitsAreTheSameForAnyThreads) {
  sizes const s{.batches = 3, .query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = 620, .keys = 1100};
  std::vector<std::int64_t> const queries{620, 350, 600}, keys{1100, 600, 1037};
  training<float> t(s, 50);
  auto const heads = normal<float, 1>({4}, 2);
  for (std::array<index_t, 4> const& kept :
       {std::array<index_t, 4>{1, 1, 620, 1100}, {1, 4, 620, 1100}, {3, 1, 620, 1100}, {1, 1, 1, 1100}}) {
    auto const pairs = normal<float, 4>(kept, 3);
    auto const run = [&](auto executor) {
      auto written = filled<float, 4>(kept, 7);
      std::vector<float> of_heads(4, 7), of_sinks(4, 7);
      t.backward(causal{}, padded(queries, keys), head_logit_scale(heads.view()), bias(pairs.view()),
                 sinks(heads.view()), gradient_of_bias(written.view()), gradient_of_logit_scale(of_heads),
                 gradient_of_sinks(of_sinks), executor);
      for (auto const* more : {&of_heads, &of_sinks, &t.of_query.elements, &t.of_key.elements, &t.of_value.elements})
        written.elements.insert(written.elements.end(), more->begin(), more->end());
      return written.elements;
    };
    t.forward(causal{}, padded(queries, keys), head_logit_scale(heads.view()), bias(pairs.view()), sinks(heads.view()));
    auto const alone = run(serial{});
    for (int count : {2, 5}) EXPECT_TRUE(same_bits(alone, run(threads{count}))) << count;
  }
}

// The keys in two parts that are merged by their log-sum-exps: each part's gradients, with that of its log-sum-exp, are
// those of the whole.
TEST(GradientsOfOptions, PartsThatAreMergedGiveTheWhole) {
  sizes const s{.query_heads = 2, .key_heads = 2, .value_heads = 2, .queries = 40, .keys = 90};
  training<float> whole(s, 61);
  whole.forward();
  whole.backward();
  auto of_query = filled<float, 4>(whole.of_query.extents, 0);
  auto const cut = [&](auto& all, index_t first, index_t count) {
    return attend::detail::part(all.view(), 2, first, count);
  };
  for (auto const& [first, count] : {std::pair<index_t, index_t>{0, 33}, {33, 57}}) {
    training<float> part(s, 61);
    auto const k = cut(std::as_const(part.in.key), first, count), v = cut(std::as_const(part.in.value), first, count);
    softmax_attention(part.in.query.view(), k, v, part.output.view(), log_sum_exp(part.sums.view()));
    auto of_sums = part.sums;
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 40; ++i) {
        float const share = std::exp(part.sums.view()(0, h, i) - whole.sums.view()(0, h, i));
        float& of_sum = of_sums.view()(0, h, i) = 0;
        for (index_t c = 0; c < s.value_dimension; ++c) {
          float& g = part.of_output.view()(0, h, i, c);
          of_sum += share * g * (part.output.view()(0, h, i, c) - whole.output.view()(0, h, i, c));
          g *= share;
        }
      }
    auto const dk = cut(part.of_key, 0, count), dv = cut(part.of_value, 0, count);
    softmax_attention_backward(part.in.query.view(), k, v, part.output.view(), part.sums.view(), part.of_output.view(),
                               part.of_query.view(), dk, dv, of_log_sum_exp(of_sums.view()));
    for (std::size_t n = 0; n < of_query.elements.size(); ++n) of_query.elements[n] += part.of_query.elements[n];
    for (index_t h = 0; h < 2; ++h)
      for (index_t j = 0; j < count; ++j)
        for (index_t c = 0; c < s.key_dimension; ++c) {
          EXPECT_NEAR(dk(0, h, j, c), whole.of_key.view()(0, h, first + j, c), 1e-5);
          EXPECT_NEAR(dv(0, h, j, c), whole.of_value.view()(0, h, first + j, c), 1e-5);
        }
  }
  EXPECT_TRUE(near(of_query.elements, whole.of_query.elements, 1e-5));
}

// Blocks that a table lists, for the heads of each key head: only these are gone through, and others get zeros.
TEST(GradientsOfOptions, BlockTablesSayWhoAdds) {
  training<float> t(some, 62);
  block_table const table = table_of_blocks({2, 2, 50, 131, 16, 32}, [](index_t b, index_t h, index_t i, index_t j) {
    return (b + 2 * h + 3 * i + j) % 3 == 0 && i != 1;
  });
  auto const pairs = normal<float, 2>({50, 131}, 63);
  auto written = filled<float, 2>(pairs.extents, 7);
  reference::options with;
  with.visible = [](reference::place const& at) {
    return (at.batch + 2 * (at.head / 2) + 3 * (at.query / 16) + at.key / 32) % 3 == 0 && at.query / 16 != 1;
  };
  with.scores = {
      [&](double s, reference::place const& at) { return s + static_cast<double>(pairs.view()(at.query, at.key)); }};
  auto const expected = t.expected(with);
  auto const sums = over_shared_axes(some, expected.scores[0].after, expected.scores[0].terms, {1, 1, 50, 131});
  t.forward(block_sparse{table}, bias(pairs.view()));
  t.backward(block_sparse{table}, bias(pairs.view()), gradient_of_bias(written.view()), threads{2});
  t.expect_tensors(expected);
  EXPECT_TRUE(near(written.elements, sums.sums, tolerance<float>(sums.terms)));
}

// Keys and values in another order have their gradients in that order, and queries the same ones.
TEST(GradientsOfOptions, ThePermutedGivePermutedGradients) {
  training<float> t(some, 64), permuted(some, 64);
  auto const permute = [](tensor<float, 4> const& from) {
    auto to = from;
    for (index_t b = 0; b < from.extents[0]; ++b)
      for (index_t h = 0; h < from.extents[1]; ++h)
        for (index_t j = 0; j < 131; ++j)
          std::copy_n(&from.view()(b, h, j, 0), from.extents[3], &to.view()(b, h, 40 * j % 131, 0));
    return to;
  };
  permuted.in.key = permute(t.in.key);
  permuted.in.value = permute(t.in.value);
  for (auto* each : {&t, &permuted}) each->forward(), each->backward();
  EXPECT_TRUE(near(permuted.of_query.elements, t.of_query.elements, 1e-5));
  EXPECT_TRUE(near(permuted.of_key.elements, permute(t.of_key).elements, 1e-5));
  EXPECT_TRUE(near(permuted.of_value.elements, permute(t.of_value).elements, 1e-5));
}

// Rows that see nothing, and NaN that nobody sees.
TEST(GradientsOfOptions, WhatIsHiddenAddsNothing) {
  float const nan = std::numeric_limits<float>::quiet_NaN();
  auto const run = [&](bool spoiled) {
    training<float> t(some, 70);
    auto const hides = mask([](auto query, auto key) { return (query != 88) & (key != 40); });  // 88 is query 7
    if (spoiled) {
      std::fill_n(&t.in.key.view()(1, 1, 40, 0), 12, nan);
      std::fill_n(&t.in.value.view()(1, 2, 40, 0), 10, nan);
      std::fill_n(&t.of_output.view()(1, 2, 7, 0), 10, nan);
      std::fill_n(&t.in.query.view()(1, 2, 7, 0), 12, nan);
    }
    auto const pairs = normal<float, 4>({1, 4, 50, 131}, 71);
    auto const heads = normal<float, 1>({4}, 72);
    auto written = filled<float, 4>(pairs.extents, 7);
    std::vector<float> of_heads(4, 7), of_sinks(4, 7);
    t.forward(hides, head_logit_scale(heads.view()), bias(pairs.view()), sinks(heads.view()));
    t.backward(hides, head_logit_scale(heads.view()), bias(pairs.view()), sinks(heads.view()),
               gradient_of_bias(written.view()), gradient_of_logit_scale(of_heads), gradient_of_sinks(of_sinks));
    for (index_t j = 0; j < 131; ++j) EXPECT_EQ(written.view()(0, 1, 7, j), 0);
    for (index_t i = 0; i < 50; ++i) EXPECT_EQ(written.view()(0, 1, i, 40), 0);
    for (auto const* more : {&of_heads, &of_sinks, &t.of_query.elements, &t.of_key.elements, &t.of_value.elements})
      written.elements.insert(written.elements.end(), more->begin(), more->end());
    return written.elements;
  };
  EXPECT_TRUE(near(run(true), run(false), 1e-5));
}

TEST(GradientsOfOptions, SumsOfNothingAreZero) {
  for (sizes const& s : {sizes{.queries = 0, .keys = 5}, sizes{.query_heads = 0, .keys = 5}, sizes{.keys = 0}}) {
    training<float> t(s, 80);
    std::vector<float> const one{1};
    std::vector<float> of_scale(1, 7), of_sink(1, 7);
    auto const shared = filled<float, 4>({1, 1, 1, 1}, 1);
    auto of_bias = filled<float, 4>({1, 1, 1, 1}, 7);
    t.forward(head_logit_scale(one), bias(shared.view()), sinks(0.5));
    t.backward(head_logit_scale(one), bias(shared.view()), sinks(0.5), gradient_of_logit_scale(of_scale),
               gradient_of_bias(of_bias.view()), gradient_of_sinks(of_sink));
    EXPECT_EQ(of_scale[0], 0) << s.queries;
    EXPECT_EQ(of_bias.elements[0], 0) << s.queries;
    EXPECT_EQ(of_sink[0], 0) << s.queries;
  }
}

TEST(GradientsOfOptions, ArgumentsThatDoNotFitAreNamed) {
  training<float> t(some, 90);
  std::vector<float> const heads(4, 1.f);
  std::vector<float> wrong(3, 7), right(4, 7);
  auto const pairs = filled<float, 4>({1, 4, 50, 131}, 0);
  auto wrong_pairs = filled<float, 4>({2, 4, 50, 131}, 7);
  auto const wrong_sums = filled<float, 3>({2, 4, 49}, 0);
  auto const expect = [&](std::string const& message, auto const&... options) {
    expect_error(message, [&] { t.backward(options...); });
    for (auto const* written :
         {&t.of_query.elements, &t.of_key.elements, &t.of_value.elements, &wrong, &right, &wrong_pairs.elements})
      EXPECT_TRUE(std::all_of(written->begin(), written->end(), [](float x) { return x == 7; })) << message;
  };
  expect("of_log_sum_exp: expected tokens 50 (as query), got 49", of_log_sum_exp(wrong_sums.view()));
  expect("gradient_of_sinks: expected shape [4] (as sinks), got [3]", sinks(heads), gradient_of_sinks(wrong));
  expect("gradient_of_logit_scale: expected shape [1, 4, 1] (as the logit scale), got [1, 3, 1]",
         head_logit_scale(heads), gradient_of_logit_scale(wrong));
  expect("gradient_of_bias: expected shape [1, 4, 50, 131] (as bias), got [2, 4, 50, 131]", bias(pairs.view()),
         gradient_of_bias(wrong_pairs.view()));
  tensor_view<float, 4> const same(const_cast<float*>(pairs.elements.data()), pairs.extents);
  expect("gradient_of_bias: expected memory of its own, got memory that overlaps bias", bias(pairs.view()),
         gradient_of_bias(same));
  // What options hold is read while gradients are written.
  float* const of_query = t.of_query.elements.data();
  std::string const overlaps = ": expected memory of its own, got memory that overlaps ";
  expect("of_query" + overlaps + "bias", bias(tensor_view<float const, 2>(of_query, {50, 131})));
  expect("of_query" + overlaps + "the logit scale", head_logit_scale(tensor_view<float const, 1>(of_query, {4})));
  expect("of_query" + overlaps + "sinks", sinks(tensor_view<float const, 1>(of_query, {4})));
  expect("of_query" + overlaps + "value_gain", value_gain(tensor_view<float const, 1>(of_query, {131})));
  expect("of_query" + overlaps + "head_gates", head_gates(tensor_view<float const, 1>(of_query, {4})));
  expect("gradient_of_sinks" + overlaps + "the logit scale", head_logit_scale(right), sinks(heads),
         gradient_of_sinks(right));
  tensor_view<float, 1> const of_others(t.of_key.elements.data(), {4});
  expect("gradient_of_sinks: expected memory of its own, got memory that overlaps of_key", sinks(heads),
         gradient_of_sinks(of_others));
}

}  // namespace
}  // namespace attend::test
