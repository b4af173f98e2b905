// SPDX-License-Identifier: BSD-3-Clause
// Relevance of queries, keys and values against the rules of the papers, term by term in double.
#include <attend/attention/softmax/attention_relevance.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/normalizer/sinks.hpp>
#include <attend/policy/score/bias.hpp>

#include "support/argument_errors.hpp"

namespace attend::test {
namespace {

using namespace systems;

template <class T>
struct relevance_problem {
  inputs<T> in;
  tensor<T, 4> output, of_output, of_query, of_key, of_value;
  tensor<accumulation_t<T>, 3> lse;

  /// Relevance that is some share of each output: half of it after each product is then of that size.
  explicit relevance_problem(sizes const& s, unsigned seed = 3) : in(random_inputs<T>(s, seed)) {
    output = filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(0));
    lse = filled<accumulation_t<T>, 3>({s.batches, s.query_heads, s.queries}, 0);
    of_query = filled<T, 4>(in.query.extents, T(7));
    of_key = filled<T, 4>(in.key.extents, T(7));
    of_value = filled<T, 4>(in.value.extents, T(7));
  }

  template <class... Options>
  void forward(Options const&... options) {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), log_sum_exp(lse.view()),
                      options...);
    of_output = normal<T, 4>(output.extents, 17);
    for (std::size_t i = 0; i < output.elements.size(); ++i)
      of_output.elements[i] =
          static_cast<T>(static_cast<double>(of_output.elements[i]) * static_cast<double>(output.elements[i]));
  }

  template <class Rule, class... Options>
  void backward(Rule const& rule, Options const&... options) {
    attention_relevance(in.query.view(), in.key.view(), in.value.view(), output.view(), lse.view(), of_output.view(),
                        of_query.view(), of_key.view(), of_value.view(), rule, options...);
  }
};

/// What the rules say, and for each tensor the largest sum of the magnitudes of an element's terms.
struct relevance {
  std::vector<double> query, key, value;
  double query_terms = 0, key_terms = 0, value_terms = 0;
  double of_weights = 0, of_logits = 0;  // sums
};

template <class T, class Rule>
relevance defined(relevance_problem<T> const& p, Rule const& rule, reference::options const& with,
                  std::function<double(reference::place const&)> const& bias = {}) {
  constexpr bool lrp = std::same_as<Rule, attn_lrp>;
  sizes const& s = p.in.size;
  inputs<T> const& in = p.in;
  double const scale = 1 / std::sqrt(static_cast<double>(s.key_dimension)), e = rule.epsilon;
  reference::options biased = with;
  if (bias) biased.scores = {[&](double x, reference::place const& at) { return x + bias(at); }};
  auto map = reference::softmax_attention<T>(in.query.view(), in.key.view(), in.value.view(), biased);
  relevance sum{std::vector<double>(in.query.elements.size()), std::vector<double>(in.key.elements.size()),
                std::vector<double>(in.value.elements.size())};
  relevance terms = sum;
  auto const index = [](auto const& t, index_t b, index_t h, index_t i, index_t c) {
    return static_cast<std::size_t>(&t.view()(b, h, i, c) - t.elements.data());
  };
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.query_heads; ++h)
      for (index_t i = 0; i < s.queries; ++i) {
        index_t const hk = h / (s.query_heads / s.key_heads), hv = h / (s.query_heads / s.value_heads);
        std::vector<double> divided, of_weight, size_of_weight;
        for (index_t c = 0; c < s.value_dimension; ++c) {
          double const o = static_cast<double>(p.output.view()(b, h, i, c));
          double const of_o = static_cast<double>(p.of_output.view()(b, h, i, c));
          divided.push_back(lrp ? of_o / (2 * o + e) : o == 0 ? 0 : of_o / (o + e) / 2);
        }
        // The relevance of weights and values.
        double total = 0, size = 0;
        for (index_t j = 0; j < s.keys; ++j) {
          double const weight = map.weight(b, h, i, j);
          double of_this = 0, size_of_this = 0;
          for (index_t c = 0; c < s.value_dimension; ++c) {
            std::size_t const at = index(in.value, b, hv, j, c);
            double const term =
                weight * static_cast<double>(in.value.elements[at]) * divided[static_cast<std::size_t>(c)];
            sum.value[at] += term;
            terms.value[at] += std::abs(term);
            of_this += term;
            size_of_this += std::abs(term);
          }
          of_weight.push_back(of_this);
          size_of_weight.push_back(size_of_this);
          total += of_this;
          size += size_of_this;
        }
        sum.of_weights += total;
        // The relevance of logits, queries and keys.
        for (index_t j = 0; j < s.keys; ++j) {
          if (!with.visible({b, h, i, j, s.queries, s.keys})) continue;
          auto const n = static_cast<std::size_t>(j);
          double z = 0, z_size = 0;
          for (index_t c = 0; c < s.key_dimension; ++c) {
            double const term =
                static_cast<double>(in.query.view()(b, h, i, c)) * static_cast<double>(in.key.view()(b, hk, j, c));
            z += term;
            z_size += std::abs(term);
          }
          double const logit = lrp ? scale * z : z, weight = map.weight(b, h, i, j);
          double const of_logit = lrp ? logit * (of_weight[n] - weight * total) : of_weight[n];
          double const size_of_logit = lrp ? std::abs(logit) * (size_of_weight[n] + weight * size) : size_of_weight[n];
          sum.of_logits += of_logit;
          double const share = lrp ? 1 / (2 * logit + e) : z == 0 ? 0 : 1 / (z + e) / 2;
          // The error of a logit of these terms changes the share by so much.
          double const slope = lrp ? e * share * share * (size_of_weight[n] + weight * size) * scale * z_size
                                   : 2 * share * share * z_size * size_of_weight[n];
          for (index_t c = 0; c < s.key_dimension; ++c) {
            std::size_t const at_q = index(in.query, b, h, i, c), at_k = index(in.key, b, hk, j, c);
            double const product = (lrp ? scale : 1) * static_cast<double>(in.query.elements[at_q]) *
                                   static_cast<double>(in.key.elements[at_k]);
            sum.query[at_q] += product * share * of_logit;
            sum.key[at_k] += product * share * of_logit;
            double const term = std::abs(product) * (std::abs(share) * size_of_logit + slope);
            terms.query[at_q] += term;
            terms.key[at_k] += term;
          }
        }
      }
  sum.query_terms = largest_magnitude(terms.query);
  sum.key_terms = largest_magnitude(terms.key);
  sum.value_terms = largest_magnitude(terms.value);
  return sum;
}

template <class T>
void expect_relevance(relevance_problem<T> const& p, relevance const& expected) {
  // What is divided, the output that is multiplied with it, and what is multiplied at last are rounded to 16 bits.
  double const roundings = std::same_as<T, accumulation_t<T>> ? 1 : 4;
  EXPECT_TRUE(near(p.of_query.elements, expected.query, roundings * tolerance<T>(expected.query_terms)));
  EXPECT_TRUE(near(p.of_key.elements, expected.key, roundings * tolerance<T>(expected.key_terms)));
  EXPECT_TRUE(near(p.of_value.elements, expected.value, roundings * tolerance<T>(expected.value_terms)));
}

template <class T, class Rule>
void expect_rules(sizes const& s, Rule const& rule) {
  relevance_problem<T> p(s);
  p.forward();
  p.backward(rule);
  expect_relevance(p, defined(p, rule, {}));
  reference::options with;
  with.visible = reference::causal_bottom_right();
  p.forward(causal{});
  p.backward(rule, causal{});
  expect_relevance(p, defined(p, rule, with));
}

constexpr sizes several{.batches = 2,
                        .query_heads = 4,
                        .key_heads = 2,
                        .value_heads = 1,
                        .queries = 37,
                        .keys = 61,
                        .key_dimension = 12,
                        .value_dimension = 10};

TEST(AttentionRelevance, IsThatOfTheRules) {
  expect_rules<float>(several, attn_lrp{});
  expect_rules<float>(several, deep_taylor{});
  expect_rules<double>(several, attn_lrp{0.03});  // an epsilon that counts
  expect_rules<double>(several, deep_taylor{0.03});
  expect_rules<bfloat16>(several, attn_lrp{});
  expect_rules<float>({.key_dimension = 1, .value_dimension = 1}, attn_lrp{});
  expect_rules<float>({.queries = 0, .keys = 3}, attn_lrp{});
  expect_rules<float>({.queries = 3, .keys = 3, .value_dimension = 0}, deep_taylor{});
}

TEST(AttentionRelevance, BiasesAndSinksTakeTheirShare) {
  relevance_problem<float> p(several);
  auto const pairs = normal<float, 4>({1, 4, 37, 61}, 5);
  std::vector<float> const logits{0.5f, -1.f, 3.f, 0.f};
  reference::options with;
  with.sink = [&](index_t head) { return static_cast<double>(logits[static_cast<std::size_t>(head)]); };
  p.forward(bias(pairs.view()), sinks(logits));
  p.backward(attn_lrp{}, bias(pairs.view()), sinks(logits));
  expect_relevance(p,
                   defined(p, attn_lrp{}, with, [&](reference::place const& at) { return shared_element(pairs, at); }));
}

double total(std::vector<double> const& elements) { return std::accumulate(elements.begin(), elements.end(), 0.0); }

// What goes into a product comes out of it, a half from each factor.
TEST(AttentionRelevance, IsConservedByProducts) {
  relevance_problem<double> p(several);
  p.forward(causal{});
  double const all = total(p.of_output.elements);
  reference::options with;
  with.visible = reference::causal_bottom_right();
  p.backward(attn_lrp{1e-14}, causal{});
  auto const lrp = defined(p, attn_lrp{1e-14}, with);
  EXPECT_NEAR(total(p.of_value.elements), all / 2, 1e-8);
  EXPECT_NEAR(lrp.of_weights, all / 2, 1e-8);
  EXPECT_NEAR(total(p.of_query.elements), lrp.of_logits / 2, 1e-8);
  EXPECT_NEAR(total(p.of_key.elements), lrp.of_logits / 2, 1e-8);
  // The softmax of the older rules passes relevance on, so that all of it arrives.
  p.backward(deep_taylor{1e-14}, causal{});
  EXPECT_NEAR(total(p.of_value.elements), all / 2, 1e-8);
  EXPECT_NEAR(total(p.of_query.elements), all / 4, 1e-8);
  EXPECT_NEAR(total(p.of_key.elements), all / 4, 1e-8);
}

TEST(AttentionRelevance, HiddenPairsAndZerosAddNothing) {
  sizes const s{.queries = 9, .keys = 9};
  relevance_problem<float> p(s), clean(s);
  for (auto* one : {&p, &clean}) std::fill_n(&one->in.query.view()(0, 0, 3, 0), 8, 0.f);  // logits of 0
  float const nan = std::numeric_limits<float>::quiet_NaN();
  p.forward(causal{});
  clean.forward(causal{});
  std::fill_n(&p.in.key.view()(0, 0, 8, 0), 8, nan);  // the last row alone sees it
  std::fill_n(&p.in.value.view()(0, 0, 8, 0), 8, nan);
  p.backward(attn_lrp{}, causal{});
  clean.backward(attn_lrp{}, causal{});
  for (std::size_t i = 0; i < 8 * 8; ++i) EXPECT_NEAR(p.of_query.elements[i], clean.of_query.elements[i], 1e-5) << i;
  clean.backward(deep_taylor{}, causal{});
  for (auto const* of : {&clean.of_query, &clean.of_key, &clean.of_value})
    EXPECT_TRUE(std::all_of(of->elements.begin(), of->elements.end(), [](float x) { return std::isfinite(x); }));
  for (index_t c = 0; c < 8; ++c) EXPECT_EQ(clean.of_query.view()(0, 0, 3, c), 0);
}

TEST(AttentionRelevance, BitsAreTheSameForAnyThreads) {
  relevance_problem<float> alone({.query_heads = 2, .queries = 700, .keys = 600}), shared(alone);
  for (auto* p : {&alone, &shared}) p->forward();
  alone.backward(attn_lrp{});
  shared.backward(attn_lrp{}, threads{3});
  EXPECT_TRUE(same_bits(alone.of_query.elements, shared.of_query.elements));
  EXPECT_TRUE(same_bits(alone.of_key.elements, shared.of_key.elements));
  EXPECT_TRUE(same_bits(alone.of_value.elements, shared.of_value.elements));
}

TEST(AttentionRelevance, ArgumentsThatDoNotFitAreNamed) {
  relevance_problem<float> p({.batches = 2, .query_heads = 2, .queries = 5, .keys = 9, .value_dimension = 4});
  p.forward();
  auto wrong = filled<float, 4>({2, 2, 5, 3}, 7);
  auto short_lse = filled<float, 3>({2, 2, 4}, 0);
  auto const expect = [&](std::string const& message, auto const& o, auto const& l, auto const& of_o, auto const& of_q,
                          attn_lrp const& rule) {
    expect_error(message, [&] {
      attention_relevance(p.in.query.view(), p.in.key.view(), p.in.value.view(), o, l, of_o, of_q, p.of_key.view(),
                          p.of_value.view(), rule);
    });
    for (auto const* written : {&p.of_query, &p.of_key, &p.of_value})
      EXPECT_TRUE(std::all_of(written->elements.begin(), written->elements.end(), [](float x) { return x == 7; }))
          << message;
  };
  auto const o = p.output.view(), of_o = p.of_output.view(), of_q = p.of_query.view();
  auto const l = p.lse.view();
  expect("output: expected head dimension 4 (as value), got 3", wrong.view(), l, of_o, of_q, {});
  expect("of_output: expected head dimension 4 (as value), got 3", o, l, wrong.view(), of_q, {});
  expect("log_sum_exp: expected tokens 5 (as query), got 4", o, short_lse.view(), of_o, of_q, {});
  expect("of_query: expected head dimension 8 (as query), got 3", o, l, of_o, wrong.view(), {});
  expect("rule: expected an epsilon above 0, got 0", o, l, of_o, of_q, {0});
  expect("rule: expected an epsilon above 0, got nan", o, l, of_o, of_q, {std::nan("")});
}

}  // namespace
}  // namespace attend::test
