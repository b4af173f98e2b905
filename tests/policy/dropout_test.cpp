// SPDX-License-Identifier: BSD-3-Clause
// Dropout in forward calls of each engine; gradients_of_gains_test.cpp has the way back.
#include <gtest/gtest.h>

#include <attend/attend.hpp>
#include <attend/policy/dropout.hpp>
#include <attend/reference/dropout.hpp>
#include <attend/reference/softmax_attention.hpp>

#include "support/argument_errors.hpp"

namespace attend::test {
namespace {

reference::options dropping(dropout const& drops, index_t heads) {
  reference::options with;
  with.pair_gain = [=](reference::place const& at) {
    return reference::dropout_gain(drops.probability, drops.seed, drops.offset, at.batch * heads + at.head, at.query,
                                   at.key);
  };
  return with;
}

template <class T>
tensor<T, 4> output_of(inputs<T> const& in, auto const&... options) {
  sizes const& s = in.size;
  auto output = filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7));
  softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), options...);
  return output;
}

// One query and a few take the split engine, many the tiled one.
TEST(Dropout, IsTheDefinitionInEachEngine) {
  dropout const drops{.probability = 0.25, .seed = 0xfedcba9876543210u, .offset = 0xffffffff};
  for (index_t const queries : {1, 3, 17, 100}) {
    sizes const s{.batches = 2, .query_heads = 4, .key_heads = 2, .value_heads = 2, .queries = queries, .keys = 501};
    auto const in = random_inputs<float>(s, 1);
    auto const expected =
        reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), dropping(drops, 4));
    auto const got = output_of(in, drops);
    EXPECT_TRUE(near(got.elements, expected.output, tolerance<float>(4))) << queries;
    EXPECT_TRUE(same_bits(got.elements, output_of(in, drops, threads{3}).elements)) << queries;
  }
}

// Tokens count from the beginning of the tensors, so that each sequence drops weights of its own.
TEST(Dropout, PackedSequencesDropEachTheirOwn) {
  std::vector<std::int64_t> const offsets{0, 30, 61, 100};
  auto const in = random_inputs<float>({.query_heads = 2, .queries = 100, .keys = 100}, 2);
  dropout const drops{.probability = 0.5, .seed = 9};
  auto with = dropping(drops, 2);
  auto const of = [&](index_t t) { return std::upper_bound(offsets.begin(), offsets.end(), t) - offsets.begin(); };
  with.visible = [&](reference::place const& at) { return of(at.query) == of(at.key); };
  auto const expected = reference::softmax_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  EXPECT_TRUE(near(output_of(in, drops, ragged{offsets}).elements, expected.output, tolerance<float>(4)));
}

TEST(Dropout, NothingIsDroppedWithProbabilityZero) {
  auto const in = random_inputs<float>({.query_heads = 2, .queries = 60, .keys = 100}, 3);
  EXPECT_TRUE(same_bits(output_of(in, dropout{}).elements, output_of(in).elements));
}

// Of weights that are all 1 / keys and values of 1, the output is the share of those that are kept.
TEST(Dropout, AsManyAreDroppedAsAreAskedFor) {
  auto in = random_inputs<float>({.query_heads = 2, .queries = 200, .keys = 1000}, 4);
  std::fill(in.key.elements.begin(), in.key.elements.end(), 0.f);
  std::fill(in.value.elements.begin(), in.value.elements.end(), 1.f);
  std::vector<double> means;
  for (dropout const& drops : {dropout{.probability = 0.2}, dropout{.probability = 0.2, .seed = 1},
                               dropout{.probability = 0.2, .offset = 1}, dropout{.probability = 0.9}}) {
    auto const output = output_of(in, drops);
    double sum = 0;
    for (float x : output.elements) sum += static_cast<double>(x);
    means.push_back(sum / static_cast<double>(output.elements.size()));
    // 400 000 pairs: a standard deviation of sqrt(p / (1 - p) / 400000), of which no number here is five away.
    double const p = drops.probability;
    EXPECT_NEAR(means.back(), 1, 5 * std::sqrt(p / (1 - p) / 4e5));
  }
  EXPECT_NE(means[0], means[1]);
  EXPECT_NE(means[0], means[2]);
}

using DropoutErrors = argument_errors;
TEST_F(DropoutErrors, AreNamed) {
  expect_option_error("dropout (probability): expected a number from 0 to below 1, got 1", dropout{.probability = 1});
  expect_option_error("dropout (probability): expected a number from 0 to below 1, got -0.5",
                      dropout{.probability = -0.5});
}

}  // namespace
}  // namespace attend::test
