// SPDX-License-Identifier: BSD-3-Clause
// Systems that are linear attention with features of their own, against weights over all pairs: cosFormer, Fastmax,
// Based, TransNormerLLM.
#include <attend/attention/linear/based_attention.hpp>
#include <attend/attention/linear/cosformer_attention.hpp>
#include <attend/attention/linear/fastmax_attention.hpp>
#include <attend/attention/linear/transnormer_attention.hpp>
#include <attend/core/eigen_tensor.hpp>

#include <numbers>

#include "support/expect_error.hpp"
#include "support/sequence_problem.hpp"

namespace attend {
using namespace linear;
using namespace extend;
using namespace systems;

namespace {

using reference::kernel_divisor;
using reference::kernel_options;
using reference::kernel_weight;
using reference::row;
using test::sequence_inputs;

template <class Check>
void for_awkward_problems(unsigned seed, Check&& check) {
  for (auto const& s : test::awkward_sequences()) check(sequence_inputs<float>(s, seed += 10));
}

template <class Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (argument_error const& error) {
    return error.what();
  }
  return "";
}

/// sum over c of the products, with the magnitudes of its terms.
template <class Term>
kernel_weight sum_of(std::size_t count, Term&& term) {
  double sum = 0, terms = 0;
  for (std::size_t c = 0; c < count; ++c) sum += term(c), terms += std::abs(term(c));
  return {sum, terms};
}

kernel_weight polynomial(kernel_weight z, bool second) {
  return {1 + z.weight + (second ? z.weight * z.weight / 2 : 0),
          1 + z.magnitude + (second ? z.magnitude * z.magnitude / 2 : 0)};
}

TEST(Based, WeightsAreATaylorPolynomial) {
  for_awkward_problems(1, [](auto const& in) {
    kernel_options with;
    with.divisor = kernel_divisor::sum;
    with.epsilon = 1e-12;
    with.weight = [](row const& q, row const& k, auto const&) {
      return polynomial(sum_of(q.size(), [&](auto c) { return q[c] * k[c] / std::sqrt(double(q.size())); }), true);
    };
    EXPECT_TRUE(test::agrees_with(in, in.output([](auto const&... t) { based_attention(t...); }), with));
  });
}

TEST(Based, AStateCarriesAnySplitAndSingleTokens) {
  sequence_inputs<float> const in({1, 4, 2, 2, 90, 90, 16, 20}, 2);
  auto const whole = in.output([](auto const&... t) { based_attention(t...); });
  auto state = test::filled<float, 4>({1, 2, 153, 20}, 0);
  auto sum = test::filled<float, 3>({1, 2, 153}, 0);
  auto const pieces = in.output([&](auto const& q, auto const& k, auto const& v, auto const& o) {
    for (index_t first = 0; first < 90;) {
      index_t const last = first < 70 ? std::min<index_t>(70, first + 31) : first + 1;
      based_attention(test::tokens<float const>(q, first, last), test::tokens<float const>(k, first, last),
                      test::tokens<float const>(v, first, last), test::tokens<float>(o, first, last),
                      initial_state(state.view(), sum.view()), final_state(state.view(), sum.view()));
      first = last;
    }
  });
  EXPECT_TRUE(test::near(pieces.elements, whole.elements, test::tolerance<float>(16)));
}

TEST(Based, TheWindowIsExact) {
  sequence_inputs<float> const in({1, 2, 1, 1, 50, 50, 16, 20}, 3);
  kernel_options with;
  with.divisor = kernel_divisor::sum;
  for (index_t tokens : {1, 7, 50, 64}) {
    with.weight = [&](row const& q, row const& k, auto const& at) {
      return at.query - at.key < tokens ? std::exp(reference::dot(q, k) / 4) : 0.0;
    };
    EXPECT_TRUE(test::agrees_with(in, in.output([&](auto const&... t) { based_window_attention(t..., tokens); }), with))
        << tokens;
  }
  EXPECT_EQ(error_of([&] { (void)in.output([](auto const&... t) { based_window_attention(t..., 0); }); }),
            "tokens: expected a window of at least 1 token, got 0");
}

row standard(row x) {
  double mean = 0, square = 0;
  for (double e : x) mean += e / double(x.size());
  for (double e : x) square += (e - mean) * (e - mean) / double(x.size());
  for (double& e : x) e = square == 0 ? 0 : (e - mean) / std::sqrt(square);
  return x;
}

TEST(Fastmax, WeightsArePolynomialsOfStandardisedRows) {
  for (bool is_causal : {true, false})
    for_awkward_problems(4, [&](auto const& in) {
      kernel_options with;
      with.causal = is_causal;
      with.divisor = kernel_divisor::sum;
      with.weight = [](row const& q, row const& k, auto const&) {
        row const x = standard(q), y = standard(k);
        return polynomial(sum_of(x.size(), [&](auto c) { return x[c] * y[c]; }), true);
      };
      EXPECT_TRUE(test::agrees_with(in, in.output([&](auto const&... t) {
        is_causal ? fastmax_attention(t..., fastmax_order::second, causal{})
                  : fastmax_attention(t..., fastmax_order::second);
      }),
                                    with));
    });
}

TEST(Fastmax, TheFirstOrderIsItsOwnPolynomial) {
  sequence_inputs<float> const in({1, 1, 1, 1, 40, 40, 12, 9}, 5);
  kernel_options with;
  with.causal = false;
  with.divisor = kernel_divisor::sum;
  with.weight = [](row const& q, row const& k, auto const&) {
    row const x = standard(q), y = standard(k);
    return polynomial(sum_of(x.size(), [&](auto c) { return x[c] * y[c]; }), false);
  };
  EXPECT_TRUE(
      test::agrees_with(in, in.output([](auto const&... t) { fastmax_attention(t..., fastmax_order::first); }), with));
}

TEST(Fastmax, EqualNumbersWeighAllKeysAlike) {
  sequence_inputs<float> in({1, 1, 1, 1, 3, 2, 64, 1}, 5);
  std::fill(in.query.elements.begin(), in.query.elements.end(), 0.1f);
  in.value.elements = {0.f, 1.f};
  for (float x : in.output([](auto const&... t) { fastmax_attention(t..., fastmax_order::second); }).elements)
    EXPECT_EQ(x, 0.5f);
}

TEST(Fastmax, WithoutKeysOutputsAreZero) {
  sequence_inputs<float> const in({1, 2, 1, 1, 3, 0, 8, 5}, 5);
  for (auto order : {fastmax_order::first, fastmax_order::second})
    for (float x : in.output([&](auto const&... t) { fastmax_attention(t..., order); }).elements) EXPECT_EQ(x, 0);
  for (float x : in.output([](auto const&... t) { linear_attention(t..., rms_norm{0}); }).elements) EXPECT_EQ(x, 0);
}

TEST(CosFormer, WeightsFallAsACosine) {
  for (bool is_causal : {true, false})
    for_awkward_problems(14, [&](auto const& in) {
      double const horizon = 300;
      kernel_options with;
      with.causal = is_causal;
      with.divisor = kernel_divisor::bounded_sum;
      with.epsilon = 1e-3;
      with.weight = [&](row const& q, row const& k, auto const& at) {
        double sum = 0;
        for (std::size_t c = 0; c < q.size(); ++c) sum += std::max(q[c], 0.0) * std::max(k[c], 0.0);
        double const cosine = std::cos(std::numbers::pi * double(at.query - at.key) / (2 * horizon));
        return kernel_weight(sum * cosine, sum);
      };
      auto const got = in.output([&](auto const&... t) {
        is_causal ? cosformer_attention(t..., cosine_horizon{300}, causal{})
                  : cosformer_attention(t..., cosine_horizon{300});
      });
      EXPECT_TRUE(test::agrees_with(in, got, with));
    });
}

TEST(CosFormer, PiecesStandWhereTheySay) {
  sequence_inputs<float> const in({1, 2, 2, 2, 60, 60, 8, 10}, 15);
  auto const whole = in.output([](auto const&... t) { cosformer_attention(t..., cosine_horizon{60}, causal{}); });
  auto state = test::filled<float, 4>({1, 2, 16, 10}, 0);
  auto sum = test::filled<float, 3>({1, 2, 16}, 0);
  auto const pieces = in.output([&](auto const& q, auto const& k, auto const& v, auto const& o) {
    for (index_t first = 0; first < 60;) {
      index_t const last = first < 50 ? first + 25 : first + 1;
      cosformer_attention(test::tokens<float const>(q, first, last), test::tokens<float const>(k, first, last),
                          test::tokens<float const>(v, first, last), test::tokens<float>(o, first, last),
                          cosine_horizon{60, first}, causal{}, initial_state(state.view(), sum.view()),
                          final_state(state.view(), sum.view()));
      first = last;
    }
  });
  EXPECT_TRUE(test::near(pieces.elements, whole.elements, test::tolerance<float>(16)));
}

TEST(CosFormer, RefusesAHorizonThatIsTooNear) {
  sequence_inputs<float> const in({1, 1, 1, 1, 10, 12, 8, 4}, 16);
  auto const message = [&](cosine_horizon horizon) {
    return error_of([&] { (void)in.output([&](auto const&... t) { cosformer_attention(t..., horizon); }); });
  };
  EXPECT_EQ(message({12}), "");
  EXPECT_EQ(message({11}), "cosine_horizon: expected at least 12 positions (as tokens), got 11");
  EXPECT_EQ(message({12, 1}), "cosine_horizon: expected at least 13 positions (as tokens), got 12");
  EXPECT_EQ(message({12, -1}), "cosine_horizon: expected a first position from 0 to 536870911, got -1");
  index_t const last = std::numeric_limits<index_t>::max();
  EXPECT_EQ(message({5, last}),
            "cosine_horizon: expected a first position from 0 to 536870911, got 9223372036854775807");
  EXPECT_EQ(message({last, 1}), "");
}

/// Weights that turn and decay with the distance: logs of state heads, and angles of query heads, of key heads, or of
/// all heads alike.
kernel_options turning_weights(index_t query_heads, std::vector<float> const& logs,
                               tensor_view<float const, 2> const& angles) {
  kernel_options with;
  with.divisor = kernel_divisor::joined_root_mean_square;
  with.epsilon = 1e-6;
  with.weight = [=](row const& q, row const& k, auto const& at) {
    double const distance = double(at.query - at.key);
    double const decay =
        std::exp(double(logs[std::size_t(at.query_head * index_t(logs.size()) / query_heads)]) * distance);
    return sum_of(q.size(), [&](auto c) {
      double const angle = double(angles(at.query_head * angles.extent(0) / query_heads, index_t(c))) * distance;
      return decay * test::silu(q[c]) * test::silu(k[c]) * std::cos(angle);
    });
  };
  return with;
}

/// What turns in TransNormerLLM's first layer: nothing, all heads alike, or each key head or query head in its own way.
enum class turning { none, alike, key_heads, query_heads };

TEST(TransNormer, WeightsTurnAndDecay) {
  for (turning turns : {turning::none, turning::alike, turning::key_heads, turning::query_heads})
    for_awkward_problems(17, [&](auto const& in) {
      auto const& s = in.size;
      // Decays of the heads that are shared, or of each query head that has a state of its own.
      index_t const shared = std::max(s.key_heads, s.value_heads);
      bool const own_decays = turns == turning::query_heads && s.dimension % 2 == 0;
      auto const logs = lightning_decays(own_decays ? std::max(shared, s.query_heads) : shared, 0, 12);
      index_t const rows = turns == turning::key_heads     ? s.key_heads
                           : turns == turning::query_heads ? s.query_heads
                                                           : 1;
      auto const angles = test::normal<float, 2>({rows, s.dimension}, 18);
      auto const still = test::filled<float, 2>({1, s.dimension}, 0);
      kernel_options const with =
          turning_weights(s.query_heads, logs, turns == turning::none ? still.view() : angles.view());
      auto const got = in.output([&](auto const&... t) {
        if (turns != turning::none)
          transnormer_attention(t..., head_decay(logs), transnormer_rotation(angles.view()));
        else
          transnormer_attention(t..., head_decay(logs));
      });
      // Cosines and sines are products of up to 15 turns in floats, and each adds its rounding.
      EXPECT_TRUE(test::agrees_with(in, got, with, 2)) << int(turns);
    });
}

// TNL's layer around the kernel: heads joined, x / sqrt(mean x^2 + epsilon) over them, times the gate.
template <class T>
void expect_gated_norm(test::sequence_sizes const& s, unsigned seed, double scale_of_values) {
  sequence_inputs<T> in(s, seed);
  for (T& x : in.value.elements) x = T(float(x) * float(scale_of_values));
  auto const logs = lightning_decays(s.key_heads, 1, 4);
  auto const gate = test::normal<T, 4>({s.batches, s.query_heads, s.queries, s.columns}, seed + 7);
  kernel_options with;
  with.divisor = kernel_divisor::joined_root_mean_square;
  with.epsilon = 1e-6;
  with.weight = [&](row const& q, row const& k, auto const& at) {
    double const log = double(logs[std::size_t(at.key_head)]);
    return sum_of(q.size(), [&](auto c) {
      return std::exp(log * double(at.query - at.key)) * test::silu(q[c]) * test::silu(k[c]);
    });
  };
  auto expected = reference::kernel_attention<T>(in.query.view(), in.key.view(), in.value.view(), with);
  for (std::size_t i = 0; i < expected.output.size(); ++i) {
    expected.output[i] *= double(gate.elements[i]);
    expected.magnitude[i] *= std::abs(double(gate.elements[i]));
  }
  for (bool threaded : {false, true}) {
    auto const got = in.output([&](auto const&... t) {
      if (threaded)
        transnormer_attention(t..., head_decay(logs), output_gate(gate.view()), threads{3});
      else
        transnormer_attention(t..., output_gate(gate.view()), head_decay(logs));
    });
    // Rounded to the output's type twice: as a head leaves it, and when the heads are joined. Below the normal range
    // each rounding is off by half of the least number above 0.
    double const u = test::unit_roundoff<T>();
    double const least = std::same_as<T, float> ? 0 : double(std::numeric_limits<T>::denorm_min());
    for (std::size_t i = 0; i < got.elements.size(); ++i) {
      double const twice = std::same_as<T, float> ? 0 : (2 + u) * u * std::abs(expected.output[i]) + least;
      double const allowed = 2 * test::tolerance<accumulation_t<T>>(expected.magnitude[i]) + twice;
      EXPECT_NEAR(double(got.elements[i]), expected.output[i], allowed) << i;
    }
  }
}

TEST(TransNormer, TheNormIsOverAllHeadsAndTheGateBehindIt) {
  expect_gated_norm<float>({2, 6, 3, 3, 70, 70, 12, 21}, 21, 1);
  expect_gated_norm<float>({1, 8, 8, 8, 700, 700, 32, 40}, 22, 1);
  // Sums beyond half's 65504 before they are normalized.
  expect_gated_norm<half>({1, 4, 4, 4, 90, 90, 16, 24}, 23, 1e4);
}

TEST(TransNormer, ATokenAtATimeIsTheWholeLayer) {
  index_t const tokens = 40;
  sequence_inputs<float> const in({1, 4, 2, 2, tokens, tokens, 8, 12}, 24);
  std::vector<float> const logs = {-0.1f, -0.2f, -0.3f, -0.4f};
  auto const angles = test::normal<float, 2>({4, 8}, 25);
  auto const gate = test::normal<float, 4>({1, 4, tokens, 12}, 26);
  auto const whole = in.output([&](auto const&... t) {
    transnormer_attention(t..., head_decay(logs), transnormer_rotation(angles.view()), output_gate(gate.view()));
  });
  auto state = test::filled<float, 4>({1, 4, 16, 12}, 0);
  auto const singly = in.output([&](auto const& q, auto const& k, auto const& v, auto const& o) {
    for (index_t t = 0; t < tokens; ++t)
      transnormer_attention(test::tokens<float const>(q, t, t + 1), test::tokens<float const>(k, t, t + 1),
                            test::tokens<float const>(v, t, t + 1), test::tokens<float>(o, t, t + 1), head_decay(logs),
                            transnormer_rotation(angles.view(), t),
                            output_gate(test::tokens<float const>(gate.view(), t, t + 1)), initial_state(state.view()),
                            final_state(state.view()));
  });
  auto expected = reference::kernel_attention<float>(in.query.view(), in.key.view(), in.value.view(),
                                                     turning_weights(4, logs, angles.view()));
  for (std::size_t i = 0; i < expected.output.size(); ++i) {
    expected.output[i] *= double(gate.elements[i]);
    expected.magnitude[i] *= std::abs(double(gate.elements[i]));
  }
  EXPECT_TRUE(test::agrees_with(whole, expected));
  EXPECT_TRUE(test::agrees_with(singly, expected));
}

TEST(TransNormer, RefusesAGateThatDoesNotFit) {
  sequence_inputs<float> const in({1, 4, 2, 2, 5, 5, 8, 6}, 27);
  std::vector<float> const logs = {-1.f, -1.f};
  auto const gate = test::normal<float, 4>({1, 4, 5, 5}, 28);
  EXPECT_EQ(error_of([&] {
              (void)in.output(
                  [&](auto const&... t) { transnormer_attention(t..., head_decay(logs), output_gate(gate.view())); });
            }),
            "output_gate: expected shape [1, 4, 5, 6] (batch, output head, query, value dimension), got [1, 4, 5, 5]");
  EXPECT_EQ(error_of([&] {
              (void)in.output([&](auto const& q, auto const& k, auto const& v, auto const& o) {
                transnormer_attention(q, k, v, o, head_decay(logs), output_gate(o));
              });
            }),
            "output: expected memory of its own, got memory that overlaps output_gate");
  test::expect_error("joined_rms_norm: expected an epsilon of at least 0, got -1", [&] {
    (void)in.output([&](auto const&... t) { linear_attention(t..., causal{}, joined_rms_norm{-1}); });
  });
}

TEST(TransNormer, InferenceIsRobust) {
  // The original recurrence forms powers of 1 / lambda, which overflow after 300 such tokens.
  index_t const tokens = 3000;
  sequence_inputs<float> const in({1, 2, 2, 2, tokens, tokens, 16, 16}, 19);
  std::vector<float> const logs = {-0.3f, -20.f};
  auto const angles = transnormer_angles(2, 16);
  tensor_view<float const, 2> const view(angles.data(), {2, 16});
  auto const whole =
      in.output([&](auto const&... t) { transnormer_attention(t..., head_decay(logs), transnormer_rotation(view)); });
  EXPECT_TRUE(test::all_finite(whole.elements));
  auto state = test::filled<float, 4>({1, 2, 32, 16}, 0);
  auto const singly = in.output([&](auto const& q, auto const& k, auto const& v, auto const& o) {
    for (index_t t = 0; t < tokens; ++t)
      transnormer_attention(test::tokens<float const>(q, t, t + 1), test::tokens<float const>(k, t, t + 1),
                            test::tokens<float const>(v, t, t + 1), test::tokens<float>(o, t, t + 1), head_decay(logs),
                            transnormer_rotation(view, t), initial_state(state.view()), final_state(state.view()));
  });
  // Keys that stand 80 tokens before a query have a weight of exp(-24), and the definition goes without those.
  kernel_options const with = turning_weights(2, logs, view);
  for (index_t first = 0; first < tokens; first += 50) {
    index_t const last = first + 50, seen = std::max<index_t>(0, first - 80);
    auto const expected = reference::kernel_attention<float>(
        test::tokens<float const>(in.query.view(), first, last), test::tokens<float const>(in.key.view(), seen, last),
        test::tokens<float const>(in.value.view(), seen, last), with);
    for (auto const* got : {&whole, &singly}) {
      auto part = test::filled<float, 4>({1, 2, 50, 16}, 0);
      for (index_t h = 0; h < 2; ++h) std::copy_n(&got->view()(0, h, first, 0), 50 * 16, &part.view()(0, h, 0, 0));
      EXPECT_TRUE(test::agrees_with(part, expected)) << "from " << first;
    }
  }
}

TEST(TransNormer, RefusesAnglesThatDoNotFit) {
  sequence_inputs<float> const in({1, 4, 2, 2, 5, 5, 8, 8}, 20);
  std::vector<float> const logs = {-1.f, -1.f};
  auto const message = [&](std::array<index_t, 2> extents, float value, index_t first) {
    auto const angles = test::filled<float, 2>(extents, value);
    return error_of([&] {
      (void)in.output([&](auto const&... t) {
        transnormer_attention(t..., head_decay(logs), transnormer_rotation(angles.view(), first));
      });
    });
  };
  EXPECT_EQ(message({1, 8}, 1, 0), "");
  EXPECT_EQ(message({2, 8}, 1, 0), "");
  EXPECT_EQ(message({3, 8}, 1, 0), "rotated: expected angles of 1, 2 (as keys) or 4 (as queries) heads, got 3");
  EXPECT_EQ(message({4, 8}, 1, 0), "");
  EXPECT_EQ(message({1, 7}, 1, 0), "rotated: expected 1 or 8 angles for a head, got 7");
  EXPECT_EQ(message({1, 8}, infinity<float>, 0), "rotated (angles): expected a finite number, got inf");
  EXPECT_EQ(message({1, 8}, 1, token_limit), "rotated: expected a first position from 0 to 536870911, got 536870912");
}

}  // namespace
}  // namespace attend
