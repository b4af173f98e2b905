// SPDX-License-Identifier: BSD-3-Clause
// Hedgehog: linear attention with the features of its three forms, against weights over all pairs.
#include <attend/attention/linear/hedgehog_attention.hpp>
#include <attend/core/eigen_tensor.hpp>

#include "support/expect_error.hpp"
#include "support/sequence_problem.hpp"

namespace attend {
using namespace linear;
using namespace systems;

namespace {

using reference::kernel_divisor;
using reference::kernel_options;
using reference::row;
using test::sequence_inputs;

template <class Check>
void for_awkward_problems(unsigned seed, Check&& check) {
  for (auto const& s : test::awkward_sequences()) check(sequence_inputs<float>(s, seed += 10));
}

row hedgehog(row const& y) {
  row both = y;
  for (double x : y) both.push_back(-x);
  return test::softmax_of(both);
}

TEST(Hedgehog, FeaturesAreASoftmaxOfBothSigns) {
  for (bool is_causal : {true, false})
    for_awkward_problems(6, [&](auto const& in) {
      kernel_options with;
      with.causal = is_causal;
      with.divisor = kernel_divisor::sum;
      with.epsilon = 1e-6;
      with.weight = [](row const& q, row const& k, auto const&) { return reference::dot(hedgehog(q), hedgehog(k)); };
      EXPECT_TRUE(test::agrees_with(in, in.output([&](auto const&... t) {
        is_causal ? hedgehog_attention(t..., causal{}) : hedgehog_attention(t...);
      }),
                                    with));
    });
}

// A key whose two halves have different sums weighs them differently, which no common factor undoes.
TEST(Hedgehog, HalvesHaveSoftmaxesOfTheirOwn) {
  auto const features = hedgehog_features<float>{}.softmax_of_halves();
  auto const halves = [](row const& y) {
    row both = test::softmax_of(y), negative;
    for (double x : y) negative.push_back(-x);
    for (double x : test::softmax_of(negative)) both.push_back(x);
    return both;
  };
  for (bool is_causal : {true, false})
    for_awkward_problems(33, [&](auto const& in) {
      kernel_options with;
      with.causal = is_causal;
      with.divisor = kernel_divisor::sum;
      with.epsilon = 1e-6;
      with.weight = [&](row const& q, row const& k, auto const&) { return reference::dot(halves(q), halves(k)); };
      EXPECT_TRUE(test::agrees_with(in, in.output([&](auto const&... t) {
        is_causal ? hedgehog_attention(t..., features, causal{}) : hedgehog_attention(t..., features);
      }),
                                    with));
    });
}

row exponentials(row const& y) {
  row both;
  for (double sign : {1, -1})
    for (double x : y) both.push_back(std::exp(sign * x));
  return both;
}

TEST(Hedgehog, FeaturesAreExponentialsAsWritten) {
  hedgehog_features<float> const features;
  for (bool is_causal : {true, false})
    for_awkward_problems(29, [&](auto const& in) {
      kernel_options with;
      with.causal = is_causal;
      with.divisor = kernel_divisor::sum;
      with.weight = [](row const& q, row const& k, auto const&) {
        return reference::dot(exponentials(q), exponentials(k));
      };
      EXPECT_TRUE(test::agrees_with(in, in.output([&](auto const&... t) {
        is_causal ? hedgehog_attention(t..., features.exponentials(), causal{})
                  : hedgehog_attention(t..., features.exponentials());
      }),
                                    with));
    });
}

// The forms weigh keys differently: a softmax divides each key, or each half of it, by a sum of its own.
TEST(Hedgehog, TheFormsDiffer) {
  sequence_inputs<float> const in({1, 1, 1, 1, 20, 20, 8, 8}, 30);
  hedgehog_features<float> const features;
  auto const of = [&](auto const& form) {
    return in.output([&](auto const&... t) { hedgehog_attention(t..., causal{}, form); }).elements;
  };
  auto const whole = of(features), halves = of(features.softmax_of_halves()), exponents = of(features.exponentials());
  // By more than they are rounded.
  double const rounding = 2 * test::tolerance<float>(4);
  EXPECT_FALSE(test::near(whole, halves, rounding));
  EXPECT_FALSE(test::near(whole, exponents, rounding));
  EXPECT_FALSE(test::near(halves, exponents, rounding));
}

// exp(300) is no float; divided by the largest of the query it need not be one.
TEST(Hedgehog, ExponentialsOfQueriesDoNotOverflow) {
  sequence_inputs<float> in({1, 1, 1, 1, 30, 30, 8, 8}, 31);
  for (float& x : in.query.elements) x *= 100;
  kernel_options with;
  with.divisor = kernel_divisor::sum;
  with.weight = [](row const& q, row const& k, auto const&) {
    return reference::dot(exponentials(q), exponentials(k));
  };
  auto const got = in.output(
      [](auto const&... t) { hedgehog_attention(t..., hedgehog_features<float>{}.exponentials(), causal{}); });
  EXPECT_TRUE(test::agrees_with(in, got, with));
}

TEST(Hedgehog, ExponentialsCarryAState) {
  index_t const tokens = 30;
  sequence_inputs<float> const in({1, 2, 2, 2, tokens, tokens, 8, 12}, 32);
  auto const features = hedgehog_features<float>{}.exponentials();
  auto const whole = in.output([&](auto const&... t) { hedgehog_attention(t..., features, causal{}); });
  auto state = test::filled<float, 4>({1, 2, 16, 12}, 0);
  auto sum = test::filled<float, 3>({1, 2, 16}, 0);
  auto const singly = in.output([&](auto const& q, auto const& k, auto const& v, auto const& o) {
    for (index_t t = 0; t < tokens; ++t)
      hedgehog_attention(test::tokens<float const>(q, t, t + 1), test::tokens<float const>(k, t, t + 1),
                         test::tokens<float const>(v, t, t + 1), test::tokens<float>(o, t, t + 1), features, causal{},
                         initial_state(state.view(), sum.view()), final_state(state.view(), sum.view()));
  });
  EXPECT_TRUE(test::near(singly.elements, whole.elements, test::tolerance<float>(16)));
}

TEST(Hedgehog, HeadsHaveWeightsOfTheirOwn) {
  sequence_inputs<bfloat16> const in({1, 4, 2, 2, 75, 75, 19, 8}, 7);
  auto const wq = test::normal<float, 3>({4, 19, 19}, 8, 0.3), wk = test::normal<float, 3>({2, 19, 19}, 9, 0.3);
  auto const bq = test::normal<float, 2>({4, 19}, 10), bk = test::normal<float, 2>({2, 19}, 11);
  auto const layer = [](auto const& w, auto const& b, index_t head, row const& x) {
    row y;
    for (index_t f = 0; f < 19; ++f) {
      double sum = b.view()(head, f);
      for (index_t c = 0; c < 19; ++c) sum += double(w.view()(head, f, c)) * x[std::size_t(c)];
      y.push_back(sum);
    }
    return y;
  };
  kernel_options with;
  with.divisor = kernel_divisor::sum;
  with.epsilon = 1e-6;
  with.weight = [&](row const& q, row const& k, auto const& at) {
    return reference::dot(hedgehog(layer(wq, bq, at.query_head, q)), hedgehog(layer(wk, bk, at.key_head, k)));
  };
  hedgehog_features<float> const features(wq.view(), wk.view(), bq.view(), bk.view());
  EXPECT_TRUE(
      test::agrees_with(in, in.output([&](auto const&... t) { hedgehog_attention(t..., features, causal{}); }), with));
}

TEST(Hedgehog, RefusesWeightsThatDoNotFit) {
  sequence_inputs<float> const in({1, 4, 2, 2, 5, 5, 8, 8}, 12);
  auto const refuses = [&](auto const& wq, auto const& wk, char const* message) {
    test::expect_error(message, [&] {
      hedgehog_features<float> const features(wq.view(), wk.view());
      (void)in.output([&](auto const&... t) { hedgehog_attention(t..., features); });
    });
  };
  auto const good = test::normal<float, 3>({1, 8, 8}, 13);
  refuses(test::normal<float, 3>({3, 8, 8}, 13), good,
          "hedgehog_features (query): expected weights of 1 or 4 heads, got 3");
  refuses(good, test::normal<float, 3>({2, 8, 9}, 13),
          "hedgehog_features (key): expected weights of dimension 8, got 9");
  refuses(good, test::normal<float, 3>({2, 7, 8}, 13), "hedgehog_features: expected 8 features (as dimensions), got 7");
  test::expect_error("hedgehog_features: expected a bias of shape [1, 8] (head, feature), got [1, 7]", [&] {
    hedgehog_features<float>(good.view(), good.view(), std::vector<float>(7), std::vector<float>(8));
  });
}

}  // namespace
}  // namespace attend
