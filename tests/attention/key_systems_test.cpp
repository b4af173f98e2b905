// SPDX-License-Identifier: BSD-3-Clause
// Systems that read what keys were given: calibrated attention, reversed attention, contributions and retrieval by
// attention, each against its formula in double.
#include <attend/attention/softmax/act_attention.hpp>
#include <attend/attention/softmax/contributions.hpp>
#include <attend/attention/softmax/dual_cross_attention.hpp>
#include <attend/attention/softmax/infini_retri.hpp>
#include <attend/attention/softmax/reversed_attention.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/segment_gain.hpp>
#include <attend/policy/slots.hpp>

#include <random>

#include "support/argument_errors.hpp"
#include "support/executors.hpp"

namespace attend::test {
namespace {

using namespace systems;

reference::result causal_weights(inputs<float> const& in, double scale = 0) {
  reference::options with;
  with.scale = scale;
  with.visible = reference::causal_bottom_right();
  return reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
}

/// The weights of a head as the paper changes them, step by step on the whole matrix. Returns whether a mean is so
/// close to the threshold that rounding decides.
bool calibrate(reference::result& r, index_t b, index_t h, act_options const& with) {
  index_t const n = r.keys;
  std::vector<index_t> sinks;
  bool close = false;
  for (index_t j = 0; j < n; ++j) {
    double sum = 0;
    for (index_t i = 0; i < n; ++i) sum += r.weight(b, h, i, j);
    double const mean = sum / static_cast<double>(n - j);
    close |= std::abs(mean - with.threshold) < 1e-4;
    if (mean > with.threshold) sinks.push_back(j);
  }
  if (!sinks.empty()) sinks.erase(sinks.begin());
  for (index_t i = 0; i < n; ++i) {
    double freed = 0, rest = 0;
    auto const is_sink = [&](index_t j) { return std::find(sinks.begin(), sinks.end(), j) != sinks.end(); };
    for (index_t j = 0; j < n; ++j) (is_sink(j) ? freed : rest) += r.weight(b, h, i, j);
    freed *= 1 - with.beta;
    for (index_t j = 0; j < n; ++j) {
      double& p = r.weight(b, h, i, j);
      p = is_sink(j) ? with.beta * p : p + freed * p / rest;
    }
  }
  return close;
}

TEST(Act, MovesWeightFromSinksToTheRest) {
  int compared = 0;
  for (unsigned seed = 1; seed <= 60; ++seed) {
    std::mt19937 engine(seed);
    index_t const n = std::uniform_int_distribution<index_t>(1, 150)(engine);
    auto in = random_inputs<float>({2, 4, 2, 2, n, n, 8, 5}, seed);
    // Some keys attract every query, by a direction that all queries share.
    for (float& x : in.query.elements) x = x * 0.5f + 0.7f;
    for (index_t b = 0; b < 2; ++b)
      for (index_t j : {index_t{0}, n / 3, n / 2 + static_cast<index_t>(seed % 5)})
        for (index_t c = 0; j < n && c < 8; ++c) in.key.view()(b, seed % 2, j, c) = 0.8f + 0.1f * static_cast<float>(b);
    act_options const with{0.02 + 0.02 * (seed % 7), 0.1 * (seed % 11)};
    std::vector<std::int64_t> const heads{3, 0};
    auto r = causal_weights(in);
    bool close = false;
    for (index_t b = 0; b < 2; ++b)
      for (index_t h : heads) close |= calibrate(r, b, h, with);
    if (close) continue;
    ++compared;
    std::vector<double> expected;
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 4; ++h)
        for (index_t i = 0; i < n; ++i)
          for (index_t c = 0; c < 5; ++c) {
            double sum = 0;
            for (index_t j = 0; j < n; ++j)
              sum += r.weight(b, h, i, j) * static_cast<double>(in.value.view()(b, h / 2, j, c));
            expected.push_back(sum);
          }
    auto out = filled<float, 4>({2, 4, n, 5}, 7);
    act_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), heads, with);
    EXPECT_TRUE(near(out.elements, expected, 2 * tolerance<float>(largest_magnitude(in.value.elements))))
        << "seed " << seed;
    if (seed % 20 == 0)
      for_executors([&](auto executor, std::string const& name) {
        auto again = filled<float, 4>({2, 4, n, 5}, 9);
        act_attention(in.query.view(), in.key.view(), in.value.view(), again.view(), heads, with, executor);
        EXPECT_TRUE(same_bits(out.elements, again.elements)) << name;
      });
  }
  EXPECT_GT(compared, 30);
}

// Without sinks, or where they keep all of their weight, and in heads that are not listed.
TEST(Act, IsPlainAttentionWhereNothingIsCalibrated) {
  auto const in = random_inputs<float>({1, 4, 2, 2, 70, 70, 8, 5}, 3);
  auto plain = filled<float, 4>({1, 4, 70, 5}, 7), out = plain;
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), plain.view(), causal{});
  std::vector<std::int64_t> const all{0, 1, 2, 3}, none;
  double const allowed = tolerance<float>(largest_magnitude(in.value.elements));
  act_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), all, {.threshold = 2});
  EXPECT_TRUE(near(out.elements, plain.elements, allowed));
  act_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), all, {.threshold = 0.01, .beta = 1});
  EXPECT_TRUE(near(out.elements, plain.elements, allowed));
  act_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), none, {});
  EXPECT_TRUE(near(out.elements, plain.elements, allowed));
}

// o_j = sum_i A_ij m_i v_i, r_j = sum_i A_ij.
TEST(ReversedAttention, SendsValuesToParents) {
  auto const in = random_inputs<float>({2, 4, 2, 2, 60, 60, 8, 5}, 4);
  auto const value = normal<float, 4>({2, 4, 60, 5}, 6);
  auto const gate = normal<float, 3>({2, 4, 60}, 8);
  reference::options with;
  with.scale = 0.7;
  auto r = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  for (index_t heads : {4, 2}) {
    auto out = filled<float, 4>({2, heads, 60, 5}, 7), gated = out;
    auto mass = filled<float, 3>({2, heads, 60}, 7);
    reversed_attention(in.query.view(), in.key.view(), value.view(), out.view(), scale{0.7}, key_mass(mass.view()));
    reversed_attention(in.query.view(), in.key.view(), value.view(), gated.view(), gate.view(), scale{0.7});
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < heads; ++h)
        for (index_t j = 0; j < 60; ++j) {
          double received = 0, sent[5] = {}, sent_gated[5] = {};
          for (index_t head = h * 4 / heads; head < (h + 1) * 4 / heads; ++head)
            for (index_t i = 0; i < 60; ++i) {
              double const p = r.weight(b, head, i, j);
              received += p;
              for (index_t c = 0; c < 5; ++c) {
                sent[c] += p * static_cast<double>(value.view()(b, head, i, c));
                sent_gated[c] +=
                    p * static_cast<double>(gate.view()(b, head, i)) * static_cast<double>(value.view()(b, head, i, c));
              }
            }
          EXPECT_NEAR(mass.view()(b, h, j), received, tolerance<float>(10));
          for (index_t c = 0; c < 5; ++c) {
            EXPECT_NEAR(out.view()(b, h, j, c), sent[c], tolerance<float>(20));
            EXPECT_NEAR(gated.view()(b, h, j, c), sent_gated[c], tolerance<float>(20));
          }
        }
  }
}

TEST(Contributions, AreTheTermsOfTheOutput) {
  auto in = random_inputs<float>({2, 6, 3, 2, 1, 90, 8, 5}, 5);
  in.value.view()(1, 0, 70, 2) = std::numeric_limits<float>::quiet_NaN();  // which is hidden
  auto terms = filled<float, 4>({2, 6, 90, 5}, 7);
  reference::options with;
  with.visible = [](reference::place const& at) { return at.key < 60; };
  auto r = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  head_contributions(in.query.view(), in.key.view(), in.value.view(), terms.view(),
                     mask([](auto, auto key) { return key < 60; }));
  double const allowed = tolerance<float>(largest_magnitude(in.value.elements));
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 6; ++h)
      for (index_t c = 0; c < 5; ++c) {
        double sum = 0;
        for (index_t j = 0; j < 90; ++j) {
          double const expected =
              j < 60 ? r.weight(b, h, 0, j) * static_cast<double>(in.value.view()(b, h / 3, j, c)) : 0;
          EXPECT_NEAR(terms.view()(b, h, j, c), expected, allowed);
          sum += static_cast<double>(terms.view()(b, h, j, c));
        }
        EXPECT_NEAR(sum, r.at(b, h, 0, c), allowed);
      }
}

TEST(InfiniRetri, KeepsTheSentencesOfTheBestTokens) {
  int compared = 0;
  for (unsigned seed = 1; seed <= 40; ++seed) {
    std::mt19937 engine(seed);
    auto const from_to = [&](index_t a, index_t b) { return std::uniform_int_distribution<index_t>(a, b)(engine); };
    index_t const question = from_to(1, 12), context = from_to(1, 200), keys = context + question;
    auto const in = random_inputs<float>({1, 4, 2, 2, question, keys, 8, 1}, seed, 1.5);
    infini_retri_options const with{from_to(1, 6), from_to(0, 12)};
    std::vector<key_range> sentences;
    for (index_t at = 0; at < context;) {
      index_t const end = std::min(at + from_to(0, 15), context);
      sentences.push_back({at, end});
      at = end + from_to(0, 2);
    }
    while (sentences.back().last > context || sentences.back().first > context) sentences.pop_back();

    // Each row is convolved, and then rows and heads are added up.
    auto r = causal_weights(in);
    std::vector<double> score(static_cast<std::size_t>(context), 0.0);
    for (index_t h = 0; h < 4; ++h)
      for (index_t i = 0; i < question; ++i)
        for (index_t j = 0; j < context; ++j)
          for (index_t t = j - (with.phrase - 1) / 2; t < j - (with.phrase - 1) / 2 + with.phrase; ++t)
            if (0 <= t && t < context) score[static_cast<std::size_t>(j)] += r.weight(0, h, i, t);
    std::vector<index_t> order(score.size());
    std::iota(order.begin(), order.end(), index_t{0});
    std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) {
      return score[static_cast<std::size_t>(a)] > score[static_cast<std::size_t>(b)];
    });
    index_t const tokens = std::min(with.tokens, context);
    auto const at = [&](index_t place) {
      return score[static_cast<std::size_t>(order[static_cast<std::size_t>(place)])];
    };
    if (tokens > 0 && tokens < context && at(tokens - 1) - at(tokens) < 1e-5) continue;  // rounding decides
    ++compared;
    std::vector<std::int32_t> expected;
    for (std::size_t s = 0; s < sentences.size(); ++s)
      if (std::any_of(order.begin(), order.begin() + tokens, [&](index_t j) { return sentences[s].contains(j); }))
        expected.push_back(static_cast<std::int32_t>(s));

    std::vector<std::int32_t> chosen(sentences.size());
    chosen.resize(infini_retri(in.query.view(), in.key.view(), sentences, with, chosen));
    EXPECT_EQ(chosen, expected) << "seed " << seed;
  }
  EXPECT_GT(compared, 20);
}

// The rows of all queries that are chosen; and two images under one softmax.
TEST(DualCrossAttention, TakesTheRowsOfTheBestQueriesAndPairsOfImages) {
  auto const in = random_inputs<float>({2, 4, 2, 2, 50, 50, 8, 5}, 5);
  auto all = filled<float, 4>({2, 4, 50, 5}, 7), some = filled<float, 4>({2, 4, 7, 5}, 7);
  auto const relevance = normal<float, 2>({2, 50}, 3);
  auto chosen = filled<std::int32_t, 2>({2, 7}, 7);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), all.view());
  chosen_query_attention(in.query.view(), in.key.view(), in.value.view(), relevance.view(), chosen.view(), some.view());
  double const allowed = tolerance<float>(largest_magnitude(in.value.elements));
  for (index_t b = 0; b < 2; ++b) {
    std::vector<std::int32_t> order(50);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](auto i, auto j) { return relevance.view()(b, i) > relevance.view()(b, j); });
    std::sort(order.begin(), order.begin() + 7);
    for (index_t r = 0; r < 7; ++r) {
      EXPECT_EQ(chosen.view()(b, r), order[static_cast<std::size_t>(r)]);
      for (index_t h = 0; h < 4; ++h)
        for (index_t c = 0; c < 5; ++c)
          EXPECT_NEAR(some.view()(b, h, r, c), all.view()(b, h, chosen.view()(b, r), c), 2 * allowed);
    }
  }

  auto const other = random_inputs<float>({2, 4, 2, 2, 50, 30, 8, 5}, 6);
  auto const joined = [](tensor<float, 4> const& a, tensor<float, 4> const& b) {
    auto both = filled<float, 4>({2, 2, 80, a.extents[3]}, 0);
    for (index_t n = 0; n < 2; ++n)
      for (index_t h = 0; h < 2; ++h)
        for (index_t j = 0; j < 80; ++j)
          for (index_t c = 0; c < a.extents[3]; ++c)
            both.view()(n, h, j, c) = j < 50 ? a.view()(n, h, j, c) : b.view()(n, h, j - 50, c);
    return both;
  };
  auto const key = joined(in.key, other.key), value = joined(in.value, other.value);
  auto const expected = reference::softmax_attention<float>(in.query.view(), key.view(), value.view());
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), all.view(),
                    prefix_key_values(other.key.view(), other.value.view()));
  EXPECT_TRUE(near(all.elements, expected.output, tolerance<float>(largest_magnitude(value.elements))));
}

// P_hij <- gamma_h P_hij for some keys, and rows are normalized again: a bias of ln gamma.
TEST(TokenEmphasis, IsABiasOfKeysForEachHead) {
  auto const in = random_inputs<float>({1, 4, 2, 2, 20, 60, 8, 5}, 7);
  std::vector<key_range> const visual{{5, 30}};
  tensor<float, 4> gamma{{1, 4, 1, 1}, {1, 1.5f, 2, 8}}, logarithms = gamma;
  for (float& x : logarithms.elements) x = std::log(x);
  auto r = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view());
  std::vector<double> expected;
  for (index_t h = 0; h < 4; ++h)
    for (index_t i = 0; i < 20; ++i) {
      double sum = 0, row[5] = {};
      for (index_t j = 0; j < 60; ++j) {
        double const p =
            r.weight(0, h, i, j) * (visual[0].contains(j) ? static_cast<double>(gamma.view()(0, h, 0, 0)) : 1);
        sum += p;
        for (index_t c = 0; c < 5; ++c) row[c] += p * static_cast<double>(in.value.view()(0, h / 2, j, c));
      }
      for (double x : row) expected.push_back(x / sum);
    }
  auto out = filled<float, 4>({1, 4, 20, 5}, 7);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(),
                    segment_bias(std::span<key_range const>(visual), logarithms.view()));
  EXPECT_TRUE(near(out.elements, expected, tolerance<float>(largest_magnitude(in.value.elements))));
}

using KeySystemErrors = argument_errors;

TEST_F(KeySystemErrors, AreFound) {
  std::vector<std::int64_t> const heads{0, 6};
  auto const square = random_inputs<float>({2, 6, 3, 2, 5, 5, 8, 4}, 1);
  auto const act = [&](index_numbers const& list, act_options const& with, auto const& k, auto const& v) {
    act_attention(q(), k, v, o(), list, with);
  };
  expect_error("query: expected tokens 9 (as key), got 5", [&] { act({0}, {}, k(), v()); });
  expect_error("heads: expected query heads from 0 to 5, got 6 at 1",
               [&] { act(heads, {}, square.key.view(), square.value.view()); });
  expect_error("act_options: expected beta from 0 to 1, got 1.5",
               [&] { act({0}, {.beta = 1.5}, square.key.view(), square.value.view()); });
  auto terms = filled<float, 4>({2, 6, 9, 4}, 7);
  expect_error("query: expected tokens 1 (as one query), got 5",
               [&] { head_contributions(q(), k(), v(), terms.view()); });
  expect_error("gates: expected tokens 5 (as query), got 4", [&] {
    auto sent = filled<float, 4>({2, 6, 9, 4}, 7);
    reversed_attention(q(), k(), normal<float, 4>({2, 6, 5, 4}, 1).view(), sent.view(),
                       filled<float, 3>({2, 6, 4}, 1).view());
  });
  auto few = filled<std::int32_t, 2>({2, 3}, 7);
  auto out = filled<float, 4>({2, 6, 3, 4}, 7);
  auto relevance = filled<float, 2>({2, 4}, 1);
  expect_error("relevance: expected tokens 5 (as query), got 4",
               [&] { chosen_query_attention(q(), k(), v(), relevance.view(), few.view(), out.view()); });
  EXPECT_EQ(few.elements, std::vector<std::int32_t>(6, 7));
  auto const one = random_inputs<float>({1, 2, 1, 1, 3, 10, 8, 4}, 1);
  std::vector<std::int32_t> chosen(2);
  auto const retrieve = [&](std::vector<key_range> const& sentences, infini_retri_options const& with) {
    infini_retri(one.query.view(), one.key.view(), sentences, with, chosen);
  };
  expect_error("sentences: expected ascending ranges of keys from 0 to 7, got 4 to 8",
               [&] { retrieve({{0, 4}, {4, 8}}, {}); });
  expect_error("infini_retri_options: expected phrases of at least 1 token, got 0",
               [&] { retrieve({}, {.phrase = 0}); });
  expect_error("chosen: expected room for 3 sentences, got 2", [&] { retrieve({{0, 1}, {1, 2}, {2, 3}}, {}); });
}

}  // namespace
}  // namespace attend::test
