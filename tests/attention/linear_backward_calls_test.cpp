// SPDX-License-Identifier: BSD-3-Clause
// Calls for gradients of linear attention: wrong arguments, pieces of a sequence, the same bits for any executor and
// batch, decays that forget everything, numbers that must not leak, and what PyTorch's autograd says.
#include <attend/attention/linear/linear_attention_backward.hpp>
#include <attend/policy/feature/elu.hpp>
#include <attend/policy/feature/relu.hpp>

#include <map>

#include "support/count_allocations.hpp"
#include "support/executors.hpp"
#include "support/expect_error.hpp"
#include "support/linear_gradients.hpp"
#include "support/outside_vectors.hpp"

namespace attend {
using namespace extend;
using namespace linear;
using namespace options;

namespace {

using reference::linear_options;
using reference::state_update;

class LinearBackwardErrors : public testing::Test {
 protected:
  test::linear_inputs<float> in{{2, 4, 2, 2, 5, 5, 8, 6}, 1};
  test::given_gradients<float> given{in};
  test::tensor<float, 4> of_query = test::filled<float, 4>({2, 4, 5, 8}, 7),
                         of_key = test::filled<float, 4>({2, 2, 5, 8}, 7),
                         of_value = test::filled<float, 4>({2, 2, 5, 6}, 7),
                         state = test::filled<float, 4>({2, 2, 8, 6}, 7);
  test::tensor<float, 3> tokens = test::filled<float, 3>({2, 2, 5}, 7);

  template <class... Options>
  void expect_option_error(std::string const& message, Options const&... options) {
    expect_error(message, in.query.view(), in.key.view(), in.value.view(), given.output.view(), of_query.view(),
                 of_key.view(), of_value.view(), options...);
  }
  template <class... Arguments>
  void expect_error(std::string const& message, Arguments const&... arguments) {
    test::expect_error(message, [&] { linear_attention_backward(arguments...); });
    for (auto const* elements :
         {&of_query.elements, &of_key.elements, &of_value.elements, &state.elements, &tokens.elements})
      EXPECT_TRUE(std::all_of(elements->begin(), elements->end(), [](float x) { return x == 7; })) << message;
  }
  template <int Rank>
  static tensor_view<float, Rank> shaped(test::tensor<float, 4>& t, std::array<index_t, Rank> const& extents) {
    return {t.elements.data(), extents};
  }
};

TEST_F(LinearBackwardErrors, Shapes) {
  auto const q = in.query.view(), k = in.key.view(), v = in.value.view(), o = given.output.view();
  auto const dq = of_query.view(), dk = of_key.view(), dv = of_value.view();
  expect_error("key: expected batch 2 (as query), got 1", q, shaped<4>(in.key, {1, 2, 5, 8}), v, o, dq, dk, dv,
               causal{});
  expect_error("of_output: expected shape [2, 4, 5, 6] (batch, output head, query, value dimension), got [2, 4, 4, 6]",
               q, k, v, shaped<4>(given.output, {2, 4, 4, 6}), dq, dk, dv, causal{});
  expect_error("of_query: expected shape [2, 4, 5, 8] (as query), got [2, 2, 5, 8]", q, k, v, o,
               shaped<4>(of_query, {2, 2, 5, 8}), dk, dv, causal{});
  expect_error("of_key: expected shape [2, 2, 5, 8] (as key), got [2, 2, 5, 7]", q, k, v, o, dq,
               shaped<4>(of_key, {2, 2, 5, 7}), dv, causal{});
  expect_error("of_value: expected shape [2, 2, 5, 6] (as value), got [2, 2, 4, 6]", q, k, v, o, dq, dk,
               shaped<4>(of_value, {2, 2, 4, 6}), causal{});
  expect_error("of_query: expected distinct elements, got stride 0 on axis 2 of extent 5", q, k, v, o,
               tensor_view<float, 4>(of_query.elements.data(), {2, 4, 5, 8}, {160, 40, 0, 1}), dk, dv, causal{});
}

TEST_F(LinearBackwardErrors, Options) {
  auto const logs = in.token_decays.view();
  test::tensor<float, 4> short_rows = test::filled<float, 4>({2, 2, 5, 7}, 7);
  expect_option_error("gradient_of_decay: expected shape [2, 2, 5] (batch, state head, token), got [2, 2, 4]", causal{},
                      token_decay(logs), gradient_of_decay(shaped<3>(state, {2, 2, 4})));
  expect_option_error("gradient_of_decay: expected shape [2] (state head), got [3]", causal{},
                      head_decay(in.head_decays.view()), gradient_of_decay(shaped<1>(state, {3})));
  expect_option_error(
      "gradient_of_decay: expected shape [2, 2, 5, 8] (batch, state head, token, feature), got [2, 2, 5, 7]", causal{},
      feature_decay(in.key_decays.view()), gradient_of_decay(short_rows.view()));
  expect_option_error("gradient_of_rates: expected shape [2, 2, 5] (batch, state head, token), got [2, 1, 5]", causal{},
                      delta_rule(in.rates.view()), gradient_of_rates(shaped<3>(state, {2, 1, 5})));
  expect_option_error(
      "gradient_of_initial_state: expected shape [2, 2, 8, 6] (batch, state head, feature, value dimension), got [2, "
      "2, "
      "8, 5]",
      causal{}, gradient_of_initial_state(shaped<4>(state, {2, 2, 8, 5})));
  expect_option_error(
      "gradient_of_final_state: expected a sum of keys of shape [2, 2, 8] (batch, state head, feature), got none",
      causal{}, key_sum{}, gradient_of_final_state(state.view()));
  expect_option_error(
      "token_decay: expected shape [2, 2, 5] (batch, state head, token) with 1 for a batch or head that "
      "is shared, got [2, 2, 4]",
      causal{}, token_decay(shaped<3>(state, {2, 2, 4})));
  expect_option_error("chunk_length: expected 1 to 256 tokens, got 0", causal{}, chunk_length(0));
  expect_option_error("scale: expected a finite number, got nan", causal{}, scale(std::nan("")));
  expect_option_error("causal: expected the last query at the last key (offset 0), got offset 1", causal{offset(1)});
  expect_option_error("threads: expected a count of at least 0, got -1", causal{}, threads{-1});
  expect_option_error("key_sum: expected a finite number, got inf", causal{}, key_sum{infinity<double>});
}

TEST_F(LinearBackwardErrors, Memory) {
  auto const q = in.query.view(), k = in.key.view(), v = in.value.view(), o = given.output.view();
  expect_error("of_query: expected memory of its own, got memory that overlaps query", q, k, v, o,
               shaped<4>(in.query, {2, 4, 5, 8}), of_key.view(), of_value.view(), causal{});
  expect_error("of_value: expected memory of its own, got memory that overlaps of_query", q, k, v, o, of_query.view(),
               of_key.view(), shaped<4>(of_query, {2, 2, 5, 6}), causal{});
  expect_option_error("gradient_of_rates: expected memory of its own, got memory that overlaps delta_rule", causal{},
                      delta_rule(tokens.view()), gradient_of_rates(tokens.view()));
  tensor_view<float, 4> const shifted(state.elements.data() + 1, {1, 1, 8, 6});
  expect_option_error("gradient_of_initial_state: expected memory of its own, got memory that overlaps initial_state",
                      causal{}, initial_state(state.view()), gradient_of_initial_state(state.view()));
  test::linear_inputs<float> const small({1, 1, 1, 1, 5, 5, 8, 6}, 1);
  test::given_gradients<float> const its(small);
  expect_error(
      "gradient_of_initial_state: expected memory of its own, got memory that overlaps gradient_of_final_state",
      small.query.view(), small.key.view(), small.value.view(), its.output.view(), shaped<4>(of_query, {1, 1, 5, 8}),
      shaped<4>(of_key, {1, 1, 5, 8}), shaped<4>(of_value, {1, 1, 5, 6}), causal{},
      gradient_of_final_state(shaped<4>(state, {1, 1, 8, 6})), gradient_of_initial_state(shifted));
}

/// Tokens [first, first + count) of a tensor whose third axis they are.
template <class T, int Axes>
tensor_view<T, Axes> tokens_of(test::tensor<std::remove_const_t<T>, Axes>& all, index_t first, index_t count) {
  auto const view = all.view();
  auto extents = view.extents();
  extents[2] = count;
  return {view.data() + first * view.stride(2), extents, view.strides()};
}

TEST(LinearBackwardIdentities, PiecesHandOverStatesAndTheirGradients) {
  test::linear_inputs<float> in({2, 4, 2, 2, 90, 90, 12, 20}, 4);
  test::given_gradients<float> given(in);
  index_t const first = 37, rest = 90 - first;
  auto middle = test::filled<float, 4>(in.state.extents, 7), out = test::filled<float, 4>({2, 4, first, 20}, 7);
  linear_attention(tokens_of<float>(in.query, 0, first), tokens_of<float>(in.key, 0, first),
                   tokens_of<float>(in.value, 0, first), out.view(), causal{},
                   delta_rule(tokens_of<float>(in.rates, 0, first)),
                   feature_decay(tokens_of<float>(in.key_decays, 0, first)), initial_state(in.state.view()),
                   final_state(middle.view()));
  auto const whole = test::gradients_of(in, given, causal{}, delta_rule(in.rates.view()),
                                        feature_decay(in.key_decays.view()), chunk_length(16));
  auto pieces = whole;
  for (auto* elements : {&pieces.query.elements, &pieces.key.elements, &pieces.value.elements, &pieces.rates.elements,
                         &pieces.decay.elements})
    std::fill(elements->begin(), elements->end(), 7.f);
  // In place: what the second piece writes is what the first one reads.
  pieces.state = given.state;
  auto const piece = [&](index_t from, index_t count, auto const& start) {
    linear_attention_backward(
        tokens_of<float>(in.query, from, count), tokens_of<float>(in.key, from, count),
        tokens_of<float>(in.value, from, count), tokens_of<float>(given.output, from, count),
        tokens_of<float>(pieces.query, from, count), tokens_of<float>(pieces.key, from, count),
        tokens_of<float>(pieces.value, from, count), causal{}, delta_rule(tokens_of<float>(in.rates, from, count)),
        feature_decay(tokens_of<float>(in.key_decays, from, count)), initial_state(start.view()), chunk_length(16),
        gradient_of_rates(tokens_of<float>(pieces.rates, from, count)),
        gradient_of_decay(tokens_of<float>(pieces.decay, from, count)), gradient_of_final_state(pieces.state.view()),
        gradient_of_initial_state(pieces.state.view()));
  };
  piece(first, rest, middle);
  piece(0, first, in.state);
  auto const expect = [](char const* name, std::vector<float> const& a, std::vector<float> const& b) {
    std::vector<double> const expected(b.begin(), b.end());
    EXPECT_TRUE(test::near(a, expected, test::tolerance<float>(test::largest_of(expected)))) << name;
  };
  expect("query", pieces.query.elements, whole.query.elements);
  expect("key", pieces.key.elements, whole.key.elements);
  expect("value", pieces.value.elements, whole.value.elements);
  expect("rates", pieces.rates.elements, whole.rates.elements);
  expect("decay", pieces.decay.elements, whole.decay.elements);
  expect("state", pieces.state.elements, whole.state.elements);
}

TEST(LinearBackwardIdentities, NoDecayIsADecayOfZeroAndARateOfOneIsNone) {
  test::linear_inputs<float> in({1, 2, 2, 2, 70, 70, 9, 21}, 5);
  std::fill(in.token_decays.elements.begin(), in.token_decays.elements.end(), 0.f);
  std::fill(in.key_decays.elements.begin(), in.key_decays.elements.end(), 0.f);
  std::fill(in.rates.elements.begin(), in.rates.elements.end(), 1.f);
  test::given_gradients<float> const given(in);
  auto const plain = test::gradients_of(in, given, causal{}, chunk_length(32));
  auto const expect = [&](auto const& got) {
    std::vector<double> const query(plain.query.elements.begin(), plain.query.elements.end());
    std::vector<double> const key(plain.key.elements.begin(), plain.key.elements.end());
    EXPECT_TRUE(test::near(got.query.elements, query, test::tolerance<float>(test::largest_of(query))));
    EXPECT_TRUE(test::near(got.key.elements, key, test::tolerance<float>(test::largest_of(key))));
  };
  auto const by_tokens = test::gradients_of(in, given, causal{}, chunk_length(32), token_decay(in.token_decays.view()));
  expect(by_tokens);
  auto const by_features =
      test::gradients_of(in, given, causal{}, chunk_length(32), feature_decay(in.key_decays.view()));
  expect(by_features);
  expect(test::gradients_of(in, given, causal{}, chunk_length(32), input_gates(in.rates.view())));
  // A decay of tokens is one of features that is the same for all: its gradient is their sum.
  std::vector<double> sums(by_tokens.decay.elements.size());
  for (std::size_t i = 0; i < by_features.decay.elements.size(); ++i)
    sums[i / 9] += static_cast<double>(by_features.decay.elements[i]);
  EXPECT_TRUE(test::near(by_tokens.decay.elements, sums, 9 * test::tolerance<float>(test::largest_of(sums))));
}

/// The gradients against those of the recurrence's own derivative: central differences in double of a sum of outputs
/// and final states.
TEST(LinearBackwardIdentities, GradientsAreCentralDifferences) {
  test::linear_inputs<double> in({1, 2, 1, 2, 11, 13, 5, 4}, 6);
  test::given_gradients<double> const given(in);
  auto const got = test::gradients_of(in, given, causal{}, delta_rule(in.rates.view()),
                                      feature_decay(in.key_decays.view()), chunk_length(4));
  auto const loss = [&] {
    auto const out = test::attend_linearly(in, causal{}, delta_rule(in.rates.view()),
                                           feature_decay(in.key_decays.view()), chunk_length(4));
    double sum = 0;
    for (std::size_t i = 0; i < out.output.elements.size(); ++i)
      sum += out.output.elements[i] * given.output.elements[i];
    for (std::size_t i = 0; i < out.state.elements.size(); ++i) sum += out.state.elements[i] * given.state.elements[i];
    return sum;
  };
  auto const expect = [&](char const* name, std::vector<double>& numbers, std::vector<double> const& gradient) {
    ASSERT_EQ(numbers.size(), gradient.size()) << name;
    for (std::size_t i = 0; i < numbers.size(); i += 3) {
      double const kept = numbers[i], step = 1e-5;
      numbers[i] = kept + step;
      double const above = loss();
      numbers[i] = kept - step;
      double const below = loss();
      numbers[i] = kept;
      EXPECT_NEAR(gradient[i], (above - below) / (2 * step), 1e-7) << name << " " << i;
    }
  };
  expect("query", in.query.elements, got.query.elements);
  expect("key", in.key.elements, got.key.elements);
  expect("value", in.value.elements, got.value.elements);
  expect("rates", in.rates.elements, got.rates.elements);
  expect("decay", in.key_decays.elements, got.decay.elements);
  expect("state", in.state.elements, got.state.elements);
}

TEST(LinearBackwardIdentities, WhatIsForgottenHasNoGradient) {
  test::linear_inputs<float> in({1, 1, 1, 1, 50, 50, 8, 16}, 7);
  for (index_t t = 0; t < 50; t += 9) {
    in.token_decays.view()(0, 0, t) = -infinity<float>;
    in.key_decays.view()(0, 0, t, t % 8) = -infinity<float>;
  }
  // Decays that no product of exponentials would survive.
  for (index_t t = 4; t < 50; t += 9) in.token_decays.view()(0, 0, t) = in.key_decays.view()(0, 0, t, 3) = -200;
  test::given_gradients<float> const given(in);
  for (index_t const chunk : {16, 50}) {
    auto const by_tokens =
        test::gradients_of(in, given, causal{}, token_decay(in.token_decays.view()), chunk_length(chunk));
    auto const by_features =
        test::gradients_of(in, given, causal{}, feature_decay(in.key_decays.view()), chunk_length(chunk));
    for (index_t t = 0; t < 50; t += 9) {
      EXPECT_EQ(by_tokens.decay.view()(0, 0, t, 0), 0);
      EXPECT_EQ(by_features.decay.view()(0, 0, t, t % 8), 0);
    }
    linear_options with;
    with.log_decay = in.token_logs();
    EXPECT_TRUE(test::gradients_agree(in, with, causal{}, token_decay(in.token_decays.view()), chunk_length(chunk)));
    with.log_decay = in.key_logs();
    EXPECT_TRUE(test::gradients_agree(in, with, causal{}, feature_decay(in.key_decays.view()), chunk_length(chunk)));
  }
}

// Lightning Attention-2's paper has its gradients as products with a mask M of powers of the decay.
TEST(LinearBackwardIdentities, RetentionIsAMaskedProduct) {
  test::linear_inputs<double> in({1, 2, 2, 2, 45, 45, 7, 9}, 11);
  std::fill(in.state.elements.begin(), in.state.elements.end(), 0.);
  test::given_gradients<double> given(in);
  std::fill(given.state.elements.begin(), given.state.elements.end(), 0.);
  auto const got = test::gradients_of(in, given, causal{}, head_decay(in.head_decays.view()), chunk_length(16));
  auto of_query = test::filled<double, 4>(in.query.extents, 0), of_key = of_query,
       of_value = test::filled<double, 4>(in.value.extents, 0);
  auto const q = in.query.view(), k = in.key.view(), v = in.value.view(), o = given.output.view();
  for (index_t h = 0; h < 2; ++h)
    for (index_t i = 0; i < 45; ++i)
      for (index_t j = 0; j <= i; ++j) {
        double weight = 0, of_weight = 0;
        double const mask = std::exp(in.head_decays.view()(h) * static_cast<double>(i - j));
        for (index_t c = 0; c < 7; ++c) weight += mask * q(0, h, i, c) * k(0, h, j, c);
        for (index_t c = 0; c < 9; ++c) of_weight += mask * o(0, h, i, c) * v(0, h, j, c);
        for (index_t c = 0; c < 7; ++c) {
          of_query.view()(0, h, i, c) += of_weight * k(0, h, j, c);
          of_key.view()(0, h, j, c) += of_weight * q(0, h, i, c);
        }
        for (index_t c = 0; c < 9; ++c) of_value.view()(0, h, j, c) += weight * o(0, h, i, c);
      }
  EXPECT_TRUE(test::near(got.query.elements, of_query.elements, 1e-12));
  EXPECT_TRUE(test::near(got.key.elements, of_key.elements, 1e-12));
  EXPECT_TRUE(test::near(got.value.elements, of_value.elements, 1e-12));
}

// A long sequence of large states has more of them than are kept.
TEST(LinearBackwardIdentities, SegmentsAreOne) {
  test::linear_sizes const s{1, 1, 1, 2, 700, 700, 64, 150};
  test::linear_inputs<float> const in(s, 8);
  linear_options with;
  with.rate = in.by_token(in.rates);
  with.log_decay = in.head_logs();
  EXPECT_TRUE(test::gradients_agree(in, with, causal{}, input_gates(in.rates.view()), head_decay(in.head_decays.view()),
                                    chunk_length(8)));
}

TEST(LinearBackwardIdentities, LaterTokensDoNotReachEarlierOnes) {
  test::linear_inputs<float> in({1, 1, 1, 1, 40, 40, 9, 20}, 9);
  test::given_gradients<float> const given(in);
  auto const all = [&](chunk_length chunk) {
    return test::gradients_of(in, given, causal{}, feature_decay(in.key_decays.view()), chunk);
  };
  auto const scalar = [&](chunk_length chunk) {
    return test::gradients_of(in, given, causal{}, delta_rule(in.rates.view()), token_decay(in.token_decays.view()),
                              chunk);
  };
  float const nan = std::nanf("");
  for (index_t const chunk : {8, 40}) {
    auto const clean = all(chunk_length(chunk)), clean_scalar = scalar(chunk_length(chunk));
    index_t const t = 21;
    auto const key = in.key, value = in.value;
    for (index_t c = 0; c < 9; ++c) in.key.view()(0, 0, t, c) = nan;
    for (index_t c = 0; c < 20; ++c) in.value.view()(0, 0, t, c) = nan;
    auto const got = all(chunk_length(chunk)), got_scalar = scalar(chunk_length(chunk));
    in.key = key;
    in.value = value;
    // A query's gradient is that of what it has read, and nobody has read the token before it was written.
    for (index_t i = 0; i < t; ++i)
      for (index_t c = 0; c < 9; ++c) {
        EXPECT_EQ(got.query.view()(0, 0, i, c), clean.query.view()(0, 0, i, c)) << i;
        EXPECT_EQ(got_scalar.query.view()(0, 0, i, c), clean_scalar.query.view()(0, 0, i, c)) << i;
        EXPECT_EQ(got.key.view()(0, 0, i, c), clean.key.view()(0, 0, i, c)) << i;
      }
  }
}

template <class Result>
std::vector<std::vector<float>> parts_of(Result const& g) {
  return {g.query.elements, g.key.elements, g.value.elements, g.state.elements, g.rates.elements, g.decay.elements};
}

TEST(LinearBackwardIdentities, TheSameBitsForAnyExecutor) {
  // Shared queries, keys and values; more work than a single thread is woken for.
  for (auto const& s : {test::linear_sizes{3, 4, 2, 2, 300, 300, 40, 50}, {2, 2, 2, 4, 200, 260, 33, 20}}) {
    test::linear_inputs<float> const in(s, 10);
    test::given_gradients<float> const given(in);
    auto const call = [&](auto const& executor) {
      return std::array{parts_of(test::gradients_of(in, given, causal{}, input_gates(in.rates.view()),
                                                    head_decay(in.head_decays.view()), executor)),
                        parts_of(test::gradients_of(in, given, causal{}, delta_rule(in.rates.view()),
                                                    feature_decay(in.key_decays.view()), executor))};
    };
    auto const alone = call(serial{});
    test::for_executors(
        [&](auto const& executor, std::string const& name) { EXPECT_EQ(call(executor), alone) << name; });
  }
}

// One head, or heads that share one: threads share its chunks where there is enough work.
TEST(LinearBackwardIdentities, TheSameBitsWhereThreadsShareAHead) {
  for (auto const& s : {test::linear_sizes{1, 1, 1, 1, 900, 1000, 40, 50},
                        {1, 2, 1, 4, 700, 700, 33, 20},
                        {1, 2, 1, 1, 500, 500, 64, 64}}) {
    test::linear_inputs<float> const in(s, 12);
    test::given_gradients<float> const given(in);
    for (index_t const length : {16, 60}) {
      chunk_length const chunk(length);
      auto const call = [&](auto const& executor) {
        return std::array{
            parts_of(test::gradients_of(in, given, causal{}, chunk, executor)),
            parts_of(test::gradients_of(in, given, causal{}, chunk, input_gates(in.rates.view()),
                                        head_decay(in.head_decays.view()), executor)),
            parts_of(test::gradients_of(in, given, causal{}, chunk, token_decay(in.token_decays.view()), executor)),
            parts_of(test::gradients_of(in, given, causal{}, chunk, feature_decay(in.key_decays.view()), executor))};
      };
      auto const alone = call(serial{});
      test::for_executors(
          [&](auto const& executor, std::string const& name) { EXPECT_EQ(call(executor), alone) << name; });
    }
  }
}

TEST(LinearBackwardIdentities, AllocateInTheFirstCallOnly) {
  test::linear_inputs<float> const in({2, 4, 2, 2, 300, 300, 33, 70}, 1);
  test::given_gradients<float> const given(in);
  test::linear_gradients<float> g{in.query, in.key, in.value, in.state, in.key_sum, in.rates, in.key_decays};
  runtime::release_scratch();
  auto const [first, second] = test::allocations_of_two([&] {
    linear_attention_backward(in.query.view(), in.key.view(), in.value.view(), given.output.view(), g.query.view(),
                              g.key.view(), g.value.view(), causal{}, delta_rule(in.rates.view()),
                              feature_decay(in.key_decays.view()), gradient_of_decay(g.decay.view()));
  });
  EXPECT_GT(first, 0);
  EXPECT_EQ(second, 0);
}

/// A case of PyTorch's: gradients in float against those of the recurrence in double.
void expect_torch_case(test::outside_cases const& cases, nlohmann::json const& about) {
  std::string const name = about.at("name");
  SCOPED_TRACE(name);
  auto const& file = cases.file;
  auto const read = [&](char const* of) { return test::outside_tensor<float>(file, name + "/" + of); };
  auto const view = [](test::outside_tensor<float> const& t) {
    return tensor_view<float const, 4>(t.elements.get(), t.extents);
  };
  std::map<std::string, std::vector<float>> got;
  auto const written = [&](char const* of) {
    auto const like = read(of);
    auto const& e = like.extents;
    got[of].assign(static_cast<std::size_t>(e[0] * e[1] * e[2] * e[3]), 7.f);
    return tensor_view<float, 4>(got[of].data(), e);
  };
  auto const by_tokens = [](auto const& t) {
    auto const& e = t.extents();
    return tensor_view<std::remove_pointer_t<decltype(t.data())>, 3>(t.data(), {e[0], e[1], e[2]});
  };
  auto const by_heads = [](auto const& t) {
    return tensor_view<std::remove_pointer_t<decltype(t.data())>, 1>(t.data(), {t.extent(1)});
  };
  auto const query = read("query"), key = read("key"), value = read("value"), of_output = read("of_output");
  auto const call = [&](auto const&... options) {
    linear_attention_backward(view(query), view(key), view(value), view(of_output), written("of_query"),
                              written("of_key"), written("of_value"), causal{}, chunk_length(16), options...);
  };
  if (about.at("elu").get<bool>()) {
    call(elu_features{}, key_sum{});
  } else {
    auto const state = read("state"), of_final = read("of_final");
    auto const with_states = [&](auto const&... options) {
      call(initial_state(view(state)), gradient_of_final_state(view(of_final)),
           gradient_of_initial_state(written("of_state")), options...);
    };
    auto const with_update = [&](auto const&... options) {
      if (about.at("update") == "additive") return with_states(options...);
      auto const rates = read("rates");
      if (about.at("update") == "delta")
        with_states(delta_rule(by_tokens(view(rates))), gradient_of_rates(by_tokens(written("of_rates"))), options...);
      else
        with_states(input_gates(by_tokens(view(rates))), gradient_of_rates(by_tokens(written("of_rates"))), options...);
    };
    if (about.at("decay").is_null()) {
      with_update();
    } else {
      auto const logs = read("logs");
      if (about.at("decay") == "head")
        with_update(head_decay(by_heads(view(logs))), gradient_of_decay(by_heads(written("of_logs"))));
      else if (about.at("decay") == "token")
        with_update(token_decay(by_tokens(view(logs))), gradient_of_decay(by_tokens(written("of_logs"))));
      else
        with_update(feature_decay(view(logs)), gradient_of_decay(written("of_logs")));
    }
  }
  for (auto const& [of, numbers] : got) {
    auto const expected = file.values<double>(name + "/" + of);
    EXPECT_TRUE(test::near(numbers, expected, test::tolerance<float>(test::largest_of(expected)))) << of;
  }
}

TEST(LinearBackwardTorch, GradientsAgree) {
  test::outside_cases const cases("torch_linear_gradients.safetensors");
  int count = 0;
  for (auto const& about : cases.manifest.at("cases")) expect_torch_case(cases, about), ++count;
  EXPECT_EQ(count, 8);
}

}  // namespace
}  // namespace attend
