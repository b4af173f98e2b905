// SPDX-License-Identifier: BSD-3-Clause
// A question behind demonstrations: the filter of trivial tokens and the softmax of each batch, against the formula.
#include <attend/attention/softmax/focus_icl_attention.hpp>

#include <numeric>

#include "support/expect_error.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;
using namespace systems;

namespace {

/// The formula, batch by batch: `batch` demonstration tokens in each.
template <class T>
std::vector<double> defined(test::inputs<T> const& in, focus_icl_options const& shown, double scale) {
  auto const& s = in.size;
  index_t const each = shown.tokens / shown.batches;
  std::vector<double> result;
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.query_heads; ++h)
      for (index_t i = 0; i < s.queries; ++i) {
        std::vector<double> logit, norms;
        for (index_t j = 0; j <= s.keys - s.queries + i; ++j) {
          double sum = 0, of_query = 0, of_key = 0;
          for (index_t c = 0; c < s.key_dimension; ++c) {
            double const q = double(in.query.view()(b, h, i, c));
            double const k = double(in.key.view()(b, h / (s.query_heads / s.key_heads), j, c));
            sum += q * k, of_query += q * q, of_key += k * k;
          }
          logit.push_back(scale * sum);
          norms.push_back(scale * std::sqrt(of_query * of_key));
        }
        std::vector<index_t> order(static_cast<std::size_t>(shown.tokens));
        std::iota(order.begin(), order.end(), 0);
        auto const of = [&](index_t j) -> double& { return logit[static_cast<std::size_t>(j)]; };
        std::sort(order.begin(), order.end(), [&](index_t x, index_t y) { return of(x) < of(y); });
        auto const hidden = static_cast<std::size_t>(shown.trivial * static_cast<double>(shown.tokens));
        // The kernel must be able to tell the first that is kept from the last that is not: a logit has an error of
        // sqrt(dimension) roundings of its product of norms.
        if (hidden > 0 && hidden < order.size()) {
          index_t const kept = order[hidden], gone = order[hidden - 1];
          double const roundings = std::sqrt(double(s.key_dimension)) * test::unit_roundoff<accumulation_t<T>>();
          EXPECT_GT(of(kept) - of(gone),
                    roundings * (norms[static_cast<std::size_t>(kept)] + norms[static_cast<std::size_t>(gone)]));
        }
        for (std::size_t n = 0; n < hidden; ++n) of(order[n]) = -infinity<double>;

        std::vector<double> total(static_cast<std::size_t>(s.value_dimension));
        double weight_sum = 0;
        for (index_t batch = 0; batch < shown.batches; ++batch)
          for (index_t j = 0; j < static_cast<index_t>(logit.size()); ++j) {
            if (j < shown.tokens && j / each != batch) continue;
            double const weight = std::exp(of(j));
            weight_sum += weight;
            for (index_t c = 0; c < s.value_dimension; ++c)
              total[static_cast<std::size_t>(c)] +=
                  weight * double(in.value.view()(b, h / (s.query_heads / s.value_heads), j, c));
          }
        for (double x : total) result.push_back(x / weight_sum);
      }
  return result;
}

template <class T>
void expect_formula(test::sizes const& size, focus_icl_options const& shown) {
  auto const in = test::random_inputs<T>(size, 3);
  auto out = test::filled<T, 4>({size.batches, size.query_heads, size.queries, size.value_dimension}, T(7));
  focus_icl_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), shown, scale(0.3));
  EXPECT_TRUE(
      test::near(out.elements, defined(in, shown, 0.3), test::tolerance<T>(test::largest_magnitude(in.value.elements))))
      << size.queries << " queries, " << size.keys << " keys, " << shown.tokens << " of demonstrations, "
      << shown.batches << " batches, trivial " << shown.trivial;
}

TEST(FocusedAttention, HasTheFormula) {
  test::sizes const size{.batches = 2,
                         .query_heads = 4,
                         .key_heads = 2,
                         .value_heads = 1,
                         .queries = 20,
                         .keys = 140,
                         .key_dimension = 12,
                         .value_dimension = 5};
  for (double trivial : {0., 0.1, 0.4, 1.}) expect_formula<float>(size, {120, 3, trivial});
  expect_formula<float>(size, {60, 4, 0.25});
  expect_formula<float>({.queries = 600, .keys = 670}, {70, 2, 0.5});
  expect_formula<float>({.query_heads = 3, .queries = 1, .keys = 100}, {90, 9, 0.5});
  expect_formula<float>({.queries = 5, .keys = 5}, {0, 1, 0.5});
}

TEST(FocusedAttention, OfOneBatchWithoutFilterIsCausalAttention) {
  auto const in = test::random_inputs<float>({.query_heads = 2, .queries = 30, .keys = 100}, 5);
  auto out = test::filled<float, 4>({1, 2, 30, 8}, 7.f);
  focus_icl_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), {70, 1, 0});
  auto const causal_out = test::attend_to(in, causal{});
  EXPECT_TRUE(test::near(out.elements, causal_out.output.elements,
                         test::tolerance<float>(test::largest_magnitude(in.value.elements))));
}

TEST(FocusedAttention, WhatIsFilteredOutHasNoInfluence) {
  auto in = test::random_inputs<float>({.queries = 1, .keys = 50}, 6);
  auto before = test::filled<float, 4>({1, 1, 1, 8}, 7.f), after = before;
  focus_icl_attention(in.query.view(), in.key.view(), in.value.view(), before.view(), {40, 2, 0.5});
  // The key with the least logit.
  index_t least = 0;
  auto const logit = [&](index_t j) {
    double sum = 0;
    for (index_t c = 0; c < 8; ++c) sum += double(in.query.view()(0, 0, 0, c)) * in.key.view()(0, 0, j, c);
    return sum;
  };
  for (index_t j = 1; j < 40; ++j)
    if (logit(j) < logit(least)) least = j;
  for (index_t c = 0; c < 8; ++c) in.value.view()(0, 0, least, c) = std::numeric_limits<float>::quiet_NaN();
  focus_icl_attention(in.query.view(), in.key.view(), in.value.view(), after.view(), {40, 2, 0.5});
  EXPECT_EQ(before.elements, after.elements);
}

TEST(FocusedAttention, HasTheSameBitsForAnyNumberOfThreads) {
  auto const in = test::random_inputs<float>({.query_heads = 4, .queries = 200, .keys = 500}, 7);
  auto one = test::filled<float, 4>({1, 4, 200, 8}, 7.f), three = one;
  focus_icl_attention(in.query.view(), in.key.view(), in.value.view(), one.view(), {300, 3, 0.3});
  focus_icl_attention(in.query.view(), in.key.view(), in.value.view(), three.view(), {300, 3, 0.3}, threads{3});
  EXPECT_TRUE(test::same_bits(one.elements, three.elements));
}

TEST(FocusedAttention, RefusesWhatDoesNotFit) {
  auto const in = test::random_inputs<float>({.queries = 8, .keys = 20}, 3);
  auto out = test::filled<float, 4>({1, 1, 8, 8}, 7.f);
  auto const expect = [&](std::string const& message, focus_icl_options const& shown) {
    test::expect_error(
        message, [&] { focus_icl_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), shown); });
    for (float x : out.elements) EXPECT_EQ(x, 7);
  };
  expect("demonstrations: expected 0 to 12 tokens (the keys before the queries), got 13", {13, 1});
  expect("demonstrations: expected 0 to 12 tokens (the keys before the queries), got -1", {-1, 1});
  expect("demonstrations: expected at least 1 batch, got 0", {12, 0});
  expect("demonstrations: expected a trivial part from 0 to 1, got 1.5", {12, 2, 1.5});
  test::expect_scale_error([&](scale const& factor) {
    focus_icl_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), {12, 2}, factor);
  });
  for (float x : out.elements) EXPECT_EQ(x, 7);
  test::expect_error("query: expected at most 8 tokens (as key), got 20", [&] {
    auto large = test::filled<float, 4>({1, 1, 20, 8}, 7.f);
    focus_icl_attention(in.key.view(), in.query.view(), in.query.view(), large.view(), {0, 1});
  });
}

}  // namespace
}  // namespace attend
