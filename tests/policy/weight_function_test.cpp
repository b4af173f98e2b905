// SPDX-License-Identifier: BSD-3-Clause
// Functions of the weight, against a softmax by definition whose weights are changed before they meet the values.
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/policy/functions.hpp>
#include <attend/policy/gain.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/normalizer/sinks.hpp>
#include <attend/policy/score/softcap.hpp>
#include <attend/policy/weight_function.hpp>

#include "support/any_policy.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace extend;

namespace {

test::sizes const shape{.batches = 2,
                        .query_heads = 4,
                        .key_heads = 2,
                        .value_heads = 2,
                        .queries = 37,
                        .keys = 150,
                        .key_dimension = 9,
                        .value_dimension = 13};

/// sum_j f(p_ij, i's position, j) v_j over the visible pairs, with p_ij of the definition.
template <class T, class Function>
std::vector<double> expected_of(test::inputs<T> const& in, reference::options const& with, Function const& function) {
  auto const softmax = reference::softmax_attention<T>(in.query.view(), in.key.view(), in.value.view(), with);
  auto const& s = in.size;
  std::vector<double> output;
  for (index_t b = 0; b < s.batches; ++b)
    for (index_t h = 0; h < s.query_heads; ++h)
      for (index_t i = 0; i < s.queries; ++i)
        for (index_t c = 0; c < s.value_dimension; ++c) {
          double sum = 0;
          for (index_t j = 0; j < s.keys; ++j) {
            if (with.visible && !with.visible({b, h, i, j, s.queries, s.keys})) continue;
            std::size_t const at = static_cast<std::size_t>(((b * s.query_heads + h) * s.queries + i) * s.keys + j);
            sum += function(softmax.weights[at], i + s.keys - s.queries, j) *
                   static_cast<double>(in.value.view()(b, h * s.value_heads / s.query_heads, j, c));
          }
          output.push_back(sum);
        }
  return output;
}

/// As much as the values of all keys, were their weights 1.
template <class T>
double allowed(test::inputs<T> const& in) {
  return test::tolerance<T>(test::largest_magnitude(in.value.elements) * 10);
}

reference::options causal_rule() {
  reference::options with;
  with.visible = [](reference::place const& at) { return at.key <= at.position(); };
  return with;
}

template <class T>
class WeightFunction : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(WeightFunction, Elements);

TYPED_TEST(WeightFunction, IsCalledWithTheFinalWeights) {
  auto const in = test::random_inputs<TypeParam>(shape, 1);
  auto output = test::filled<TypeParam, 4>({2, 4, 37, 13}, TypeParam(7));
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), causal{},
                    weight_function([](auto p, auto const&) { return p * p - decltype(p)(0.01f); }));
  auto const expected =
      expected_of(in, causal_rule(), [](double p, index_t, index_t) { return p * p - double(0.01f); });
  EXPECT_TRUE(test::near(output.elements, expected, 10 * allowed(in)));
}

TEST(WeightFunctions, AreToldThePlace) {
  auto const in = test::random_inputs<float>(shape, 2);
  auto output = test::filled<float, 4>({2, 4, 37, 13}, 7);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), causal{},
                    weight_function([](auto p, auto const& at) {
                      return attend::extend::select(at.query_position - at.key_position < decltype(p)(5), p,
                                                    p * decltype(p)(0.5f));
                    }));
  auto const expected =
      expected_of(in, causal_rule(), [](double p, index_t i, index_t j) { return i - j < 5 ? p : p / 2; });
  EXPECT_TRUE(test::near(output.elements, expected, allowed(in)));
}

// Sinks take their part of the weight; scores come before; log-sum-exp and weights are those without the function.
TEST(WeightFunctions, StandBesideScoresSinksAndOutputs) {
  auto const in = test::random_inputs<float>(shape, 3);
  auto output = test::filled<float, 4>({2, 4, 37, 13}, 7), plain = output;
  auto rows = test::filled<float, 3>({2, 4, 37}, 7), plain_rows = rows;
  auto pairs = test::filled<float, 4>({2, 4, 37, 150}, 7), plain_pairs = pairs;
  auto gates = test::filled<float, 2>({2, 4}, 1);
  gates.view()(0, 1) = 0;
  auto const call = [&](auto& o, auto& r, auto& w, auto const&... function) {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), o.view(), causal{}, softcap{2}, sinks{1.0},
                      head_gates(gates.view()), log_sum_exp(r.view()), weights(w.view()), function...);
  };
  call(plain, plain_rows, plain_pairs);
  call(output, rows, pairs, weight_function([](auto p, auto const&) { return p + p; }));
  EXPECT_EQ(rows.elements, plain_rows.elements);
  EXPECT_EQ(pairs.elements, plain_pairs.elements);
  std::vector<double> twice;
  for (float x : plain.elements) twice.push_back(2.0 * double(x));
  EXPECT_TRUE(test::near(output.elements, twice, allowed(in)));
}

// A hidden key has no influence, not even as NaN; a visible one whose weight is 0 has that of f(0).
TEST(WeightFunctions, AreNotAskedAboutHiddenKeys) {
  auto in = test::random_inputs<float>({.queries = 20, .keys = 60}, 4);
  for (index_t j : {3, 40}) {
    std::fill_n(&in.key.view()(0, 0, j, 0), in.size.key_dimension, std::numeric_limits<float>::quiet_NaN());
    std::fill_n(&in.value.view()(0, 0, j, 0), in.size.value_dimension, infinity<float>);
  }
  // So far below the others that its weight is 0.
  auto const far = score([](auto s, auto const& at) {
    return attend::extend::select(at.key_position == decltype(s)(7), decltype(s)(-1e4f), s);
  });
  auto const seen = mask([](auto, auto key) { return key != 3 && key != 40; });
  auto output = test::filled<float, 4>({1, 1, 20, in.size.value_dimension}, 7);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), test::any_mask(seen), far,
                    weight_function([](auto p, auto const&) { return p + decltype(p)(1); }));
  reference::options with;
  with.visible = [](reference::place const& at) { return at.key != 3 && at.key != 40; };
  with.scores = {[](double s, reference::place const& at) { return at.key == 7 ? -1e4 : s; }};
  auto const expected = expected_of(in, with, [](double p, index_t, index_t) { return p + 1; });
  EXPECT_TRUE(test::near(output.elements, expected, 60 * allowed(in)));
  // A row that sees nothing is 0 all the same.
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(),
                    test::any_mask(mask([](auto, auto key) { return key < 0; })), far,
                    weight_function([](auto p, auto const&) { return p + decltype(p)(1); }));
  for (float x : output.elements) EXPECT_EQ(x, 0);
}

// Gains multiply values: the function is asked about the weight itself, and a negative gain of a hidden key shows
// nothing.
TEST(WeightFunctions, ComeBeforeTheGainsOfValues) {
  auto const in = test::random_inputs<float>(shape, 6);
  auto const gains = test::normal<float, 3>({2, 2, 150}, 7);
  auto out = test::filled<float, 4>({2, 4, 37, 13}, 7);
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), causal{}, value_gain(gains.view()),
                    weight_function([](auto const& p, auto const&) { return p * p - 0.1f; }));
  auto scaled = in;
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t j = 0; j < 150; ++j)
        for (index_t c = 0; c < 13; ++c) scaled.value.view()(b, h, j, c) *= gains.view()(b, h, j);
  EXPECT_TRUE(test::near(out.elements,
                         expected_of(scaled, causal_rule(), [](double p, index_t, index_t) { return p * p - 0.1; }),
                         allowed(scaled)));
}

TEST(WeightFunctions, SeeWhatACacheHolds) {
  auto const in = test::random_inputs<float>(shape, 5);
  contiguous_cache<float> cache({2, 2, 9, 13}, 150);
  cache.append(in.key.view(), in.value.view());
  auto const square = weight_function([](auto p, auto const&) { return p * p; });
  for (index_t queries : {1, 37}) {
    auto got = test::filled<float, 4>({2, 4, queries, 13}, 7), expected = got;
    auto const query = detail::part(in.query.view(), 2, 0, queries);
    softmax_attention(query, cache, got.view(), causal{}, square);
    softmax_attention(query, in.key.view(), in.value.view(), expected.view(), causal{}, square);
    EXPECT_TRUE(test::near(got.elements, expected.elements, allowed(in)));
  }
}

}  // namespace
}  // namespace attend
