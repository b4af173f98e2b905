// SPDX-License-Identifier: BSD-3-Clause
// Gradients through gains, gates, divided ReLU, rotary positions and dropout: against their definition in double, and,
// all together, against difference quotients of calls in double.
#include <gtest/gtest.h>

#include <attend/attend.hpp>
#include <attend/attention/softmax/softmax_attention_backward.hpp>
#include <attend/policy/dropout.hpp>
#include <attend/reference/dropout.hpp>
#include <attend/reference/softmax_backward.hpp>

#include "support/argument_errors.hpp"
#include "support/training.hpp"

namespace attend::test {
namespace {

sizes const some{.batches = 2,
                 .query_heads = 4,
                 .key_heads = 2,
                 .value_heads = 2,
                 .queries = 50,
                 .keys = 131,
                 .key_dimension = 12,
                 .value_dimension = 10};

TEST(GradientsOfGains, ReluDividesByCountOrSum) {
  for (auto const& [scaling, settings] : {std::pair{relu_scaling::count, reference::normalizer::relu_by_count},
                                          std::pair{relu_scaling::sum, reference::normalizer::relu_by_sum}}) {
    training<float> t(some, 1);
    std::vector<float> const factors{1, 0.5f, -1, 2};
    reference::options with;
    with.settings = settings;
    with.visible = reference::causal_with_offset(-1);  // the first query sees nothing
    with.scores = {[&](double s, reference::place const& at) {
      return s * static_cast<double>(factors[static_cast<std::size_t>(at.head)]);
    }};
    auto const expected = t.expected(with);
    auto const mask = causal{offset(-1)};
    t.forward_without_sums(mask, head_logit_scale(factors), relu_weights{scaling});
    t.backward_without_sums(mask, head_logit_scale(factors), relu_weights{scaling}, threads{2});
    // Factors 1 / sum are up to 10 for rows that see little.
    t.expect_tensors(expected, 4);
  }
}

template <class T>
void expect_gains(unsigned seed, double magnification) {
  using A = accumulation_t<T>;
  training<T> t(some, seed);
  auto const tokens = normal<A, 3>({2, 1, 131}, seed + 1);
  std::vector<A> gates{A(0.5), A(1), A(-2), A(1.5)};
  auto const centres = normal<A, 3>({1, 1, 50}, seed + 2);
  reference::options with;
  with.visible = reference::sliding_window(60, 10);
  with.head_gate = [&](index_t, index_t head) { return static_cast<double>(gates[static_cast<std::size_t>(head)]); };
  with.value_gain = [&](index_t b, index_t, index_t key) { return static_cast<double>(tokens.view()(b, 0, key)); };
  with.pair_gain = [&](reference::place const& at) {
    double const x = static_cast<double>(at.key) - static_cast<double>(centres.view()(0, 0, at.query));
    return std::exp(-x * x / (2 * 30. * 30.));
  };
  auto of_tokens = filled<A, 3>(tokens.extents, A(7));
  auto of_gates = filled<A, 2>({1, 4}, A(7));
  auto const call = [&](auto const&... more) {
    t.forward(window{60, 10}, value_gain(tokens.view()), head_gates(gates), gaussian_gain(centres.view(), 30.));
    t.backward(window{60, 10}, value_gain(tokens.view()), head_gates(gates), gaussian_gain(centres.view(), 30.),
               gradient_of_value_gain(of_tokens.view()), more...);
  };
  call(gradient_of_head_gates(of_gates.view()));
  auto expected = t.expected(with);
  t.expect_tensors(expected, magnification);
  std::vector<double> gains(2 * 131), of_heads(4);
  for (std::size_t n = 0; n < expected.value_gain.size(); ++n) gains[n / 262 * 131 + n % 131] += expected.value_gain[n];
  for (std::size_t n = 0; n < 8; ++n) of_heads[n % 4] += expected.head_gate[n];
  EXPECT_TRUE(near(of_tokens.elements, gains, 2 * magnification * tolerance<T>(expected.value_gain_terms)));
  EXPECT_TRUE(near(of_gates.elements, of_heads, 4 * magnification * tolerance<T>(expected.head_gate_terms)));

  gates[1] = 0;  // its head is skipped
  call();
  expected = t.expected(with);
  t.expect_tensors(expected, magnification);
}

TEST(GradientsOfGains, ValuesPairsAndHeads) {
  expect_gains<float>(10, 2);
  expect_gains<bfloat16>(20, 2);
}

template <class T>
void expect_dropout(unsigned seed, auto const&... options) {
  training<T> t(some, seed);
  dropout const drops{.probability = 0.3, .seed = 0x123456789abcdefull, .offset = 5};
  reference::options with;
  with.visible = reference::causal_bottom_right();
  with.pair_gain = [&](reference::place const& at) {
    return reference::dropout_gain(0.3, drops.seed, 5, 4 * at.batch + at.head, at.query, at.key);
  };
  auto const forward = reference::softmax_attention<T>(t.in.query.view(), t.in.key.view(), t.in.value.view(), with);
  t.forward(causal{}, drops, options...);
  EXPECT_TRUE(near(t.output.elements, forward.output, 4 * tolerance<T>(4)));
  EXPECT_TRUE(near(t.sums.elements, forward.log_sum_exp, tolerance<float>(10)));
  t.backward(causal{}, drops, options...);
  t.expect_tensors(t.expected(with), 2);
}

TEST(GradientsOfGains, DropoutIsTheSameBothWays) {
  expect_dropout<float>(30);
  expect_dropout<double>(31);
  expect_dropout<bfloat16>(32);
  expect_dropout<bfloat16>(33, full_precision{});
  expect_dropout<half>(34, threads{2});
}

// The logits before rotation are not those of the tensors: so against calls whose tensors were rotated beforehand.
TEST(GradientsOfGains, RotatedQueriesAndKeysAreTurnedBack) {
  for (auto const layout : {rotary_layout::half_split, rotary_layout::interleaved}) {
    rotary const turns(rotary_frequencies(8), layout);
    std::vector<std::int64_t> const queries{50, 33}, keys{131, 40};
    training<double> turned(some, 40), plain(some, 40);
    turned.forward(causal{}, padded(queries, keys), turns);
    turned.backward(causal{}, padded(queries, keys), turns, threads{2});
    // A row x and the gradient g of its rotation: (R x) . g = x . (R^T g), for all x.
    auto const turn = [&](tensor<double, 4> const& from, std::vector<std::int64_t> const& shift, index_t sign) {
      auto to = from;
      std::vector<double> buffer(static_cast<std::size_t>(turns.buffer_size()));
      for (index_t b = 0; b < 2; ++b)
        for (index_t t = 0; t < from.extents[2]; ++t) {
          index_t const position = t + shift[static_cast<std::size_t>(b)];
          auto by = turns.rotation_at(token_place::on_all_axes(b, position), buffer.data());
          for (index_t c = 0; sign < 0 && c < turns.buffer_size() / 2; ++c)
            const_cast<double*>(by.sine)[c] = -by.sine[c];
          for (index_t h = 0; h < from.extents[1]; ++h) by.apply(&from.view()(b, h, t, 0), &to.view()(b, h, t, 0), 12);
        }
      return to;
    };
    std::vector<std::int64_t> const of_queries{81, 7}, of_keys{0, 0};
    plain.in.query = turn(plain.in.query, of_queries, 1);
    plain.in.key = turn(plain.in.key, of_keys, 1);
    plain.forward(causal{}, padded(queries, keys));
    plain.backward(causal{}, padded(queries, keys));
    EXPECT_TRUE(near(turned.of_query.elements, turn(plain.of_query, of_queries, -1).elements, 1e-12));
    EXPECT_TRUE(near(turned.of_key.elements, turn(plain.of_key, of_keys, -1).elements, 1e-12));
    EXPECT_TRUE(near(turned.of_value.elements, plain.of_value.elements, 1e-12));
  }
}

// All at once: a loss of the output and the log-sum-exp, in double, changed by each number in turn.
TEST(GradientsOfGains, AreDifferenceQuotients) {
  sizes const s{.batches = 2,
                .query_heads = 4,
                .key_heads = 2,
                .value_heads = 1,
                .queries = 5,
                .keys = 7,
                .key_dimension = 4,
                .value_dimension = 3};
  training<double> t(s, 50);
  auto tokens = normal<double, 3>({2, 1, 7}, 51);
  auto gates = normal<double, 2>({2, 4}, 52);
  auto pairs = normal<double, 4>({1, 2, 5, 7}, 53);
  auto temperatures = normal<double, 3>({1, 4, 5}, 54);
  auto logits = normal<double, 1>({4}, 55);
  auto const of_sums = normal<double, 3>({2, 4, 5}, 56);
  auto const run = [&](auto const& call, auto const&... more) {
    call(causal{}, rotary(rotary_frequencies(4)), value_gain(tokens.view()), head_gates(gates.view()), softcap{2.},
         query_logit_scale(temperatures.view()), bias(pairs.view()), sinks(logits.view()),
         dropout{.probability = 0.4, .seed = 3}, more...);
  };
  auto const forward = [&](auto const&... options) { t.forward(options...); };
  auto const backward = [&](auto const&... options) { t.backward(options...); };
  auto const loss = [&] {
    run(forward);
    return std::inner_product(t.output.elements.begin(), t.output.elements.end(), t.of_output.elements.begin(), 0.0) +
           std::inner_product(t.sums.elements.begin(), t.sums.elements.end(), of_sums.elements.begin(), 0.0);
  };
  auto of_tokens = filled<double, 3>(tokens.extents, 7);
  auto of_gates = filled<double, 2>(gates.extents, 7);
  auto of_pairs = filled<double, 4>(pairs.extents, 7);
  auto of_temperatures = filled<double, 3>(temperatures.extents, 7);
  std::vector<double> of_logits(4, 7);
  run(forward);
  run(backward, of_log_sum_exp(of_sums.view()), gradient_of_value_gain(of_tokens.view()),
      gradient_of_head_gates(of_gates.view()), gradient_of_bias(of_pairs.view()),
      gradient_of_logit_scale(of_temperatures.view()), gradient_of_sinks(of_logits));
  auto const check = [&](char const* of, std::vector<double>& elements, std::vector<double> const& gradient) {
    for (std::size_t i = 0; i < elements.size(); ++i) {
      double const x = std::exchange(elements[i], elements[i] + 1e-5), above = loss();
      elements[i] = x - 1e-5;
      double const below = loss();
      elements[i] = x;
      EXPECT_NEAR(gradient[i], (above - below) / 2e-5, 1e-8) << of << ' ' << i;
    }
  };
  check("query", t.in.query.elements, t.of_query.elements);
  check("key", t.in.key.elements, t.of_key.elements);
  check("value", t.in.value.elements, t.of_value.elements);
  check("value_gain", tokens.elements, of_tokens.elements);
  check("head_gates", gates.elements, of_gates.elements);
  check("bias", pairs.elements, of_pairs.elements);
  check("logit scale", temperatures.elements, of_temperatures.elements);
  check("sinks", logits.elements, of_logits);
}

// Tokens that nobody sees have gains and values of NaN.
TEST(GradientsOfGains, WhatIsHiddenAddsNothing) {
  training<float> t(some, 60);
  auto tokens = filled<float, 3>({2, 2, 131}, 1);
  auto of_tokens = tokens;
  float const nan = std::numeric_limits<float>::quiet_NaN();
  tokens.view()(1, 1, 40) = nan;
  std::fill_n(&t.in.value.view()(1, 1, 41, 0), 10, nan);
  std::fill_n(&t.in.key.view()(1, 1, 41, 0), 12, nan);
  auto const hides = mask([](auto, auto key) { return (key != 40) & (key != 41); });
  dropout const drops{.probability = 0.5};
  t.forward(hides, value_gain(tokens.view()), drops);
  t.backward(hides, value_gain(tokens.view()), drops, gradient_of_value_gain(of_tokens.view()));
  for (auto const* of : {&t.of_query.elements, &t.of_key.elements, &t.of_value.elements, &of_tokens.elements})
    EXPECT_TRUE(std::all_of(of->begin(), of->end(), [](float x) { return std::isfinite(x); }));
  EXPECT_EQ(of_tokens.view()(1, 1, 40), 0);
  EXPECT_EQ(of_tokens.view()(1, 1, 41), 0);
}

TEST(GradientsOfGains, ArgumentsThatDoNotFitAreNamed) {
  training<float> t(some, 70);
  std::vector<float> gates(4, 1.f);
  gates[2] = 0;
  auto const tokens = filled<float, 3>({2, 1, 131}, 1);
  auto wrong = filled<float, 3>({2, 2, 131}, 7);
  auto of_gates = filled<float, 2>({1, 4}, 7);
  auto const expect = [&](std::string const& message, auto const&... options) {
    expect_error(message, [&] { t.backward(options...); });
    for (auto const* written :
         {&t.of_query.elements, &t.of_key.elements, &t.of_value.elements, &wrong.elements, &of_gates.elements})
      EXPECT_TRUE(std::all_of(written->begin(), written->end(), [](float x) { return x == 7; })) << message;
  };
  expect("gradient_of_value_gain: expected shape [2, 1, 131] (as value_gain), got [2, 2, 131]",
         value_gain(tokens.view()), gradient_of_value_gain(wrong.view()));
  expect("gradient_of_head_gates: expected gates other than 0, whose heads are not computed, got 0 for head 2",
         head_gates(gates), gradient_of_head_gates(of_gates.view()));
  for (double const p : {-0.1, 1., std::numeric_limits<double>::quiet_NaN()})
    expect("dropout (probability): expected a number from 0 to below 1, got " + (std::ostringstream() << p).str(),
           dropout{.probability = p});
}

}  // namespace
}  // namespace attend::test
