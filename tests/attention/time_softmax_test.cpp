// SPDX-License-Identifier: BSD-3-Clause
// LightNet, Latte, log-normal attention and Performer: keys as weights over time, against their definitions.
#include <attend/attention/linear/latte_attention.hpp>
#include <attend/attention/linear/lightnet_attention.hpp>
#include <attend/attention/linear/log_normal_attention.hpp>
#include <attend/attention/linear/performer_attention.hpp>
#include <attend/core/eigen_tensor.hpp>
#include <attend/policy/feature/exponential.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/reference/time_softmax.hpp>

#include <numeric>

#include "support/sequence_problem.hpp"

namespace attend {
using namespace options;
using namespace linear;
using namespace extend;
using namespace systems;

namespace {

using reference::kernel_divisor;
using reference::kernel_options;
using reference::row;
using test::sequence_inputs;

auto const lightnet = [](auto&&... arguments) { lightnet_attention(arguments...); };
auto const latte = [](auto&&... arguments) { latte_attention(arguments...); };

row silu_row(row x) {
  for (double& e : x) e = test::silu(e);
  return x;
}

template <class T, class Call>
void expect_time_softmax(sequence_inputs<T> const& in, Call const& call, std::function<row(row)> const& weights) {
  auto const expected = [&](bool is_causal) {
    return reference::time_softmax<T>(in.query.view(), in.key.view(), in.value.view(), is_causal, weights);
  };
  for (index_t chunk : {64, 1, 23}) {
    EXPECT_TRUE(test::agrees_with(
        in.output([&](auto const&... tensors) { call(tensors..., causal{}, chunk_length(chunk)); }), expected(true)))
        << "causal, chunk " << chunk;
    EXPECT_TRUE(test::agrees_with(in.output([&](auto const&... tensors) { call(tensors..., chunk_length(chunk)); }),
                                  expected(false)))
        << "chunk " << chunk;
  }
}

TEST(TimeSoftmax, LightNetIsASoftmaxOverTokensForEachChannel) {
  unsigned seed = 1;
  for (auto const& s : test::awkward_sequences())
    expect_time_softmax(sequence_inputs<float>(s, seed += 10), lightnet, silu_row);
}

TEST(TimeSoftmax, LatteAttendsThroughLatents) {
  unsigned seed = 2;
  for (auto const& s : test::awkward_sequences())
    expect_time_softmax(sequence_inputs<float>(s, seed += 10), latte, test::softmax_of);
}

TEST(TimeSoftmax, OtherElementTypes) {
  test::sequence_sizes const s{1, 2, 1, 1, 70, 70, 9, 21};
  expect_time_softmax(sequence_inputs<double>(s, 3), lightnet, silu_row);
  expect_time_softmax(sequence_inputs<bfloat16>(s, 5), latte, test::softmax_of);
}

TEST(TimeSoftmax, LogNormalWeightsAreThoseOfExponentialFeatures) {
  unsigned seed = 4;
  for (auto const& s : test::awkward_sequences()) {
    sequence_inputs<float> const in(s, seed += 10);
    kernel_options with;
    with.divisor = kernel_divisor::sum;
    with.weight = [](row const& q, row const& k, auto const&) {
      double sum = 0;
      for (std::size_t c = 0; c < q.size(); ++c) sum += std::exp(1.5 * q[c] + 0.75 * k[c]);
      return sum;
    };
    for (bool is_causal : {true, false}) {
      with.causal = is_causal;
      log_normal_features const features(1.5, 0.75);
      EXPECT_TRUE(test::agrees_with(in, in.output([&](auto const&... tensors) {
        is_causal ? log_normal_attention(tensors..., features, causal{}) : log_normal_attention(tensors..., features);
      }),
                                    with));
    }
  }
}

TEST(TimeSoftmax, LogNormalIsLinearAttentionWithExponentialFeatures) {
  sequence_inputs<float> const in({1, 2, 2, 2, 90, 90, 16, 12}, 5);
  auto const stable = in.output([](auto const&... tensors) { log_normal_attention(tensors..., causal{}); });
  auto const plain = in.output(
      [](auto const&... tensors) { linear_attention(tensors..., causal{}, exponential_features{}, key_sum{0}); });
  EXPECT_TRUE(test::near(stable.elements, plain.elements, test::tolerance<float>(4)));
}

TEST(TimeSoftmax, LogNormalFeaturesMatchMoments) {
  auto const features = log_normal_features::matching(1.2, 0.8, 0.2, -0.1);
  double const square = (1.2 * 1.2 * 0.8 * 0.8 + 0.1) / 0.2;
  EXPECT_DOUBLE_EQ(features.alpha, std::sqrt(square / 2) / 1.2);
  EXPECT_DOUBLE_EQ(features.beta, std::sqrt(square / 2) / 0.8);
  EXPECT_THROW(log_normal_features::matching(0, 1, 1, 0), argument_error);
  EXPECT_THROW(log_normal_features::matching(1, 1, 1, 2), argument_error);
}

template <class T>
void expect_weights_of_random_features() {
  unsigned seed = 6;
  for (auto const& s : test::awkward_sequences()) {
    if (s.dimension > 20) continue;
    sequence_inputs<T> const in(s, seed += 10);
    index_t const count = 3 * s.dimension / 2 + 1;
    auto const directions = orthogonal_directions(count, s.dimension, seed);
    tensor_view<double const, 2> const view(directions.data(), {count, s.dimension});
    kernel_options with;
    with.divisor = kernel_divisor::sum;
    with.weight = [&](row const& q, row const& k, auto const&) {
      double const factor = std::pow(double(s.dimension), -0.25);
      double sum = 0;
      for (index_t r = 0; r < count; ++r) {
        double exponent = 0;
        for (std::size_t c = 0; c < q.size(); ++c) {
          double const w = view(r, index_t(c));
          exponent += w * factor * (q[c] + k[c]) - factor * factor * (q[c] * q[c] + k[c] * k[c]) / 2;
        }
        sum += std::exp(exponent);
      }
      return sum / double(count);
    };
    for (bool is_causal : {true, false}) {
      with.causal = is_causal;
      random_features<T> const features(view);
      EXPECT_TRUE(test::agrees_with(in, in.output([&](auto const&... tensors) {
        is_causal ? performer_attention(tensors..., features, causal{}) : performer_attention(tensors..., features);
      }),
                                    with));
    }
  }
}

TEST(TimeSoftmax, PerformerWeightsAreThoseOfItsRandomFeatures) {
  expect_weights_of_random_features<float>();
  // Features hold their directions in one type.
  expect_weights_of_random_features<double>();
}

TEST(TimeSoftmax, PerformerNearsSoftmaxAttention) {
  // Of each of m directions w the estimate of a weight is exp(w . (q + k) / sqrt(2) - (|q|^2 + |k|^2) / 4). To first
  // order an output is off by the mean over directions of sum_j a_j times these, with a_j = v_j - o, over the sum of
  // weights p_j; which is 0 on average, and has the variance
  //   exp(|q|^2 / 2) sum_jl a_j p_j^2 a_l p_l^2 exp(k_j . k_l / 2) / (m (sum_j p_j)^2)
  // or less, since directions are orthogonal. Four deviations are allowed.
  constexpr index_t features = 4096;
  sequence_inputs<float> const in({1, 1, 1, 1, 20, 20, 4, 6}, 7, 0.5);
  kernel_options with;
  with.divisor = kernel_divisor::sum;
  with.weight = [](row const& q, row const& k, auto const&) { return std::exp(reference::dot(q, k) / 2); };
  auto const exact = reference::kernel_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  auto const estimate = in.output([](auto const&... tensors) {
    performer_attention(tensors..., random_features<float>(features, 4, 1), causal{});
  });
  for (index_t i = 0; i < 20; ++i) {
    row const q = reference::row_of(in.query.view(), 0, 0, i);
    std::vector<row> k;
    row p;
    for (index_t j = 0; j <= i; ++j) {
      k.push_back(reference::row_of(in.key.view(), 0, 0, j));
      p.push_back(std::exp(reference::dot(q, k.back()) / 2));
    }
    double const sum = std::accumulate(p.begin(), p.end(), 0.0);
    for (index_t c = 0; c < 6; ++c) {
      auto const at = std::size_t(i * 6 + c);
      row a = p;
      for (std::size_t j = 0; j < a.size(); ++j)
        a[j] *= p[j] * (double(in.value.view()(0, 0, index_t(j), c)) - exact.output[at]);
      double variance = 0;
      for (std::size_t j = 0; j < a.size(); ++j)
        for (std::size_t l = 0; l < a.size(); ++l) variance += a[j] * a[l] * std::exp(reference::dot(k[j], k[l]) / 2);
      variance *= std::exp(reference::dot(q, q) / 2) / (features * sum * sum);
      EXPECT_NEAR(estimate.elements[at], exact.output[at],
                  4 * std::sqrt(variance) + test::tolerance<float>(exact.magnitude[at]));
    }
  }
}

TEST(TimeSoftmax, AStateCarriesAnySplit) {
  sequence_inputs<float> const in({2, 2, 2, 2, 100, 100, 12, 19}, 8);
  auto const split = [&](auto const& features, std::vector<index_t> const& cuts) {
    auto const whole = in.output([&](auto const&... tensors) { linear_attention(tensors..., causal{}, features); });
    auto state = test::filled<float, 4>({2, 2, 12, 19}, 0);
    auto sum = test::filled<float, 3>({2, 2, 12}, -infinity<float>);
    auto pieces = in.output([&](auto const& q, auto const& k, auto const& v, auto const& o) {
      index_t first = 0;
      for (index_t last : cuts) {
        linear_attention(test::tokens<float const>(q, first, last), test::tokens<float const>(k, first, last),
                         test::tokens<float const>(v, first, last), test::tokens<float>(o, first, last), causal{},
                         features, initial_state(state.view(), sum.view()), final_state(state.view(), sum.view()));
        first = last;
      }
    });
    EXPECT_TRUE(test::near(pieces.elements, whole.elements, test::tolerance<float>(16)));
    for (index_t c = 0; c < 12; ++c) {
      double exact = 0;
      for (index_t j = 0; j < 100; ++j) exact += std::exp(double(in.key.view()(1, 0, j, c)));
      EXPECT_NEAR(sum.view()(1, 0, c), std::log(exact), test::tolerance<float>(std::log(exact)));
    }
  };
  std::vector<index_t> singly;
  for (index_t i = 1; i <= 100; ++i) singly.push_back(i);
  split(lightnet_features{}, {3, 67, 67, 100});
  split(lightnet_features{}, singly);
  split(log_normal_features{}, {1, 2, 50, 100});
  split(log_normal_features{}, singly);
}

TEST(TimeSoftmax, NoKeyOverflows) {
  for (double deviation : {30.0, 1e4, 1e30}) {
    sequence_inputs<float> const in({1, 1, 1, 1, 150, 150, 16, 16}, 9, deviation);
    EXPECT_TRUE(test::all_finite(in.output([](auto const&... t) { latte_attention(t..., causal{}); }).elements));
    EXPECT_TRUE(test::all_finite(in.output([](auto const&... t) { latte_attention(t...); }).elements));
    EXPECT_TRUE(test::all_finite(in.output([](auto const&... t) { log_normal_attention(t..., causal{}); }).elements));
  }
}

TEST(TimeSoftmax, LaterTokensHaveNoInfluence) {
  sequence_inputs<float> in({1, 1, 1, 1, 100, 100, 16, 16}, 10);
  auto const before = in.output([](auto const&... t) { log_normal_attention(t..., causal{}); });
  for (index_t c = 0; c < 16; ++c) {
    in.key.view()(0, 0, 50, c) = std::numeric_limits<float>::quiet_NaN();
    in.value.view()(0, 0, 50, c) = infinity<float>;
  }
  auto const after = in.output([](auto const&... t) { log_normal_attention(t..., causal{}); });
  for (index_t i = 0; i < 50 * 16; ++i) ASSERT_EQ(before.elements[std::size_t(i)], after.elements[std::size_t(i)]) << i;
  for (index_t i = 50 * 16; i < 100 * 16; ++i) ASSERT_TRUE(std::isnan(after.elements[std::size_t(i)])) << i;
}

TEST(TimeSoftmax, WithoutKeysOutputsAreZero) {
  sequence_inputs<float> const in({1, 2, 1, 1, 5, 0, 6, 4}, 11);
  auto const zeros = std::vector<float>(in.output([](auto&&...) {}).elements.size(), 0.f);
  EXPECT_EQ(in.output([](auto const&... t) { latte_attention(t...); }).elements, zeros);
  EXPECT_EQ(in.output([](auto const&... t) { log_normal_attention(t...); }).elements, zeros);
}

TEST(TimeSoftmax, TheSameBitsForAnyNumberOfThreads) {
  sequence_inputs<float> const in({1, 1, 1, 1, 700, 700, 64, 128}, 12);
  auto const one = in.output([](auto const&... t) { log_normal_attention(t..., causal{}); });
  for (int count : {2, 3, 5})
    EXPECT_EQ(one.elements,
              in.output([&](auto const&... t) { log_normal_attention(t..., causal{}, threads{count}); }).elements);
}

TEST(TimeSoftmax, SumsLoseNothingFarOut) {
  // After one key of weight 1, keys of weight 0.3: far out each is less than what the float of their sum can hold.
  index_t const tokens = 60000;
  auto const q = test::filled<float, 4>({1, 1, tokens, 1}, 0.f);
  auto k = test::filled<float, 4>({1, 1, tokens, 1}, -1.2f);
  k.elements[0] = 0;
  auto v = test::normal<float, 4>({1, 1, tokens, 16}, 13);
  auto o = test::filled<float, 4>({1, 1, tokens, 16}, 7.f);
  for (index_t j = 0; j < tokens; ++j) v.view()(0, 0, j, 0) = float(j) / float(tokens);
  latte_attention(q.view(), k.view(), v.view(), o.view(), causal{});
  double const weight = std::exp(double(-1.2f));
  for (index_t c = 0; c < 16; ++c) {
    double sum = v.view()(0, 0, 0, c), magnitude = std::abs(sum);
    for (index_t j = 1; j < tokens; ++j) {
      sum += weight * v.view()(0, 0, j, c);
      magnitude += weight * std::abs(v.view()(0, 0, j, c));
    }
    double const weight_sum = 1 + weight * double(tokens - 1);
    EXPECT_NEAR(o.view()(0, 0, tokens - 1, c), sum / weight_sum, test::tolerance<float>(magnitude / weight_sum));
  }
}

TEST(TimeSoftmax, ReturnsATensor) {
  Eigen::Tensor<float, 2, Eigen::RowMajor> q(6, 4), k(6, 4), v(6, 3);
  q.setRandom(), k.setRandom(), v.setRandom();
  auto const o = latte_attention(q, k, v, causal{});
  EXPECT_EQ(o.dimension(0), 6);
  EXPECT_NEAR(o(0, 2), v(0, 2), test::tolerance<float>(std::abs(v(0, 2))));
}

TEST(TimeSoftmax, RefusesWhatDoesNotFit) {
  sequence_inputs<float> const in({1, 1, 1, 1, 6, 6, 8, 4}, 14);
  auto const message = [&](auto const&... options) -> std::string {
    try {
      auto const o = in.output([&](auto const&... t) { linear_attention(t..., options...); });
    } catch (argument_error const& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message(random_features<float>(5, 7, 1)), "random_features: expected weights of dimension 8, got 7");
  EXPECT_EQ(message(log_normal_features(infinity<double>, 1)),
            "multiplied_features: expected a finite number, got inf");
  auto state = test::filled<float, 4>({1, 1, 8, 4}, 0);
  EXPECT_EQ(message(lightnet_features{}, final_state(state.view())),
            "final_state: expected a sum of keys of shape [1, 1, 8] (batch, state head, feature), got none");
  EXPECT_THROW(orthogonal_directions(3, 0, 1), argument_error);
}

}  // namespace
}  // namespace attend
