// SPDX-License-Identifier: BSD-3-Clause
// Aaren and the non-approximate attention against softmax attention over each prefix; the scan's three forms agree.
#include <attend/attention/linear/aaren_attention.hpp>
#include <attend/attention/linear/lightnet_attention.hpp>
#include <attend/attention/linear/non_approximate_attention.hpp>
#include <attend/core/eigen_tensor.hpp>

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

constexpr scan_form forms[] = {scan_form::sequential, scan_form::chunked, scan_form::tree};

/// The queries are those of the first token, for all tokens.
template <class T>
tensor_view<T const, 3> one_query(sequence_inputs<T> const& in) {
  auto const view = in.query.view();
  return {view.data(), {view.extent(0), view.extent(1), view.extent(3)}, {view.stride(0), view.stride(1), 1}};
}

template <class T>
kernel_options prefix_softmax(sequence_inputs<T> const& in, double factor) {
  kernel_options with;
  with.divisor = kernel_divisor::sum;
  with.weight = [&in, factor](row const&, row const& k, auto const& at) {
    return std::exp(factor * reference::dot(reference::row_of<T>(in.query.view(), at.batch, at.query_head, 0), k));
  };
  return with;
}

TEST(Aaren, EveryOutputIsSoftmaxAttentionToAPrefix) {
  unsigned seed = 1;
  for (test::sequence_sizes s : test::awkward_sequences()) {
    s.queries = s.keys;
    sequence_inputs<float> const in(s, seed += 10);
    for (scan_form form : forms)
      EXPECT_TRUE(test::agrees_with(in, in.output([&](auto const&, auto const&... t) {
        aaren_attention(one_query(in), t..., prefix_scan{form});
      }),
                                    prefix_softmax(in, 1 / std::sqrt(double(s.dimension)))));
  }
}

TEST(Aaren, KeyAndValueHeadsAreCountedApart) {
  // As for softmax attention: both counts divide that of the queries, and neither the other.
  sequence_inputs<float> const in({2, 6, 2, 3, 20, 20, 8, 5}, 9);
  EXPECT_TRUE(test::agrees_with(in,
                                in.output([&](auto const&, auto const&... t) { aaren_attention(one_query(in), t...); }),
                                prefix_softmax(in, 1 / std::sqrt(8.0))));
}

TEST(Aaren, TensorsWithoutElementsNeedNoMemory) {
  std::vector<float> none;
  tensor_view<float, 4> const no_columns(none.data(), {2, 2, 9, 0}), no_tokens(none.data(), {2, 2, 0, 5}),
      no_keys(none.data(), {2, 2, 0, 8});
  sequence_inputs<float> const in({2, 2, 2, 2, 9, 9, 8, 5}, 10);
  auto log = test::filled<float, 3>({2, 2, 1}, 3);
  auto mean = test::filled<float, 4>({2, 2, 1, 5}, 2);
  tensor_view<float, 4> const no_mean(none.data(), {2, 2, 1, 0});
  // The logarithm goes on without the values.
  aaren_attention(one_query(in), in.key.view(), no_columns, no_columns, initial_state(no_mean, log.view()),
                  final_state(no_mean, log.view()));
  EXPECT_GT(log.elements[0], 3);
  aaren_attention(one_query(in), no_keys, no_tokens, no_tokens, initial_state(mean.view(), log.view()),
                  final_state(mean.view(), log.view()));
  EXPECT_EQ(mean.elements[19], 2);
  non_approximate_attention(in.query.view(), in.key.view(), no_columns, no_columns);
}

TEST(Aaren, FormsAgreeOverManyChunks) {
  // Chunks that fill the tree's places unevenly, at once and to the last; sharp logits move the maximum.
  for (index_t tokens : {257, 512, 769, 1025, 2050, 3000}) {
    sequence_inputs<float> const in({1, 2, 1, 1, tokens, tokens, 8, 20}, unsigned(tokens), 3);
    auto const run = [&](auto const&... options) {
      return in.output([&](auto const&, auto const&... t) { aaren_attention(one_query(in), t..., options...); });
    };
    auto const expected = run(prefix_scan{scan_form::sequential});
    EXPECT_TRUE(
        test::near(run(prefix_scan{scan_form::chunked}).elements, expected.elements, test::tolerance<float>(1)));
    EXPECT_TRUE(test::near(run(prefix_scan{scan_form::tree}).elements, expected.elements, test::tolerance<float>(1)));
    for (scan_form form : forms)
      EXPECT_EQ(run(prefix_scan{form}).elements, run(prefix_scan{form}, threads{3}).elements);
  }
}

TEST(Aaren, OtherElementTypes) {
  sequence_inputs<double> const in({2, 2, 2, 1, 300, 300, 11, 7}, 2);
  EXPECT_TRUE(test::agrees_with(
      in, in.output([&](auto const&, auto const&... t) { aaren_attention(one_query(in), t..., scale(0.7)); }),
      prefix_softmax(in, 0.7)));
  sequence_inputs<half> const small({1, 2, 2, 1, 60, 60, 11, 7}, 3);
  EXPECT_TRUE(test::agrees_with(
      small, small.output([&](auto const&, auto const&... t) { aaren_attention(one_query(small), t...); }),
      prefix_softmax(small, 1 / std::sqrt(11.0))));
}

TEST(Aaren, AStateCarriesAnySplit) {
  sequence_inputs<float> const in({1, 2, 2, 2, 700, 700, 8, 13}, 4);
  auto const whole = in.output([&](auto const&, auto const&... t) { aaren_attention(one_query(in), t...); });
  for (scan_form form : forms) {
    auto mean = test::filled<float, 4>({1, 2, 1, 13}, 0);
    auto log = test::filled<float, 3>({1, 2, 1}, -infinity<float>);
    auto const pieces = in.output([&](auto const&, auto const& k, auto const& v, auto const& o) {
      index_t first = 0;
      for (index_t last : {1, 2, 3, 300, 300, 699, 700}) {
        aaren_attention(one_query(in), test::tokens<float const>(k, first, last),
                        test::tokens<float const>(v, first, last), test::tokens<float>(o, first, last),
                        prefix_scan{form}, initial_state(mean.view(), log.view()),
                        final_state(mean.view(), log.view()));
        first = last;
      }
    });
    EXPECT_TRUE(test::near(pieces.elements, whole.elements, test::tolerance<float>(4)));
    for (index_t c = 0; c < 13; ++c)
      EXPECT_NEAR(mean.view()(0, 1, 0, c), whole.view()(0, 1, 699, c), test::tolerance<float>(4));
  }
}

TEST(Aaren, IsLightNetWithOneChannel) {
  // One key channel, the logit, read with the weight silu(x) = 1.
  sequence_inputs<float> const in({1, 1, 1, 1, 90, 90, 1, 9}, 5);
  double x = 1.2784645;  // silu(x) = 1
  auto const weights = test::filled<float, 4>({1, 1, 90, 1}, float(x));
  float const one = 1;
  auto const scanned = in.output([&](auto const&, auto const&... t) {
    aaren_attention(tensor_view<float const, 2>(&one, {1, 1}), t..., scale(1));
  });
  auto const lightnet =
      in.output([&](auto const&, auto const&... t) { lightnet_attention(weights.view(), t..., causal{}); });
  EXPECT_TRUE(test::near(lightnet.elements, scanned.elements, test::tolerance<float>(4)));
}

TEST(Aaren, LogitsMayBeLargeOrMinusInfinity) {
  sequence_inputs<float> in({1, 1, 1, 1, 600, 600, 1, 9}, 6, 1e4);
  in.query.elements[0] = 1;
  for (index_t j : {0, 1, 5, 300}) in.key.elements[std::size_t(j)] = -infinity<float>;
  for (scan_form form : forms) {
    auto const o =
        in.output([&](auto const&, auto const&... t) { aaren_attention(one_query(in), t..., prefix_scan{form}); });
    EXPECT_TRUE(test::all_finite(o.elements));
    for (index_t c = 0; c < 9; ++c) {
      EXPECT_EQ(o.view()(0, 0, 1, c), 0);
      EXPECT_EQ(o.view()(0, 0, 2, c), in.value.view()(0, 0, 2, c));
    }
  }
}

TEST(NonApproximateAttention, WeightsAreThoseOfTheKeysOwnToken) {
  unsigned seed = 7;
  for (test::sequence_sizes s : test::awkward_sequences()) {
    s.queries = s.keys;
    sequence_inputs<float> const in(s, seed += 10);
    kernel_options with;
    with.divisor = kernel_divisor::sum;
    with.weight = [&](row const&, row const& k, auto const& at) {
      row const q = reference::row_of<float>(in.query.view(), at.batch, at.query_head, at.key);
      double sum = 0;
      for (std::size_t c = 0; c < q.size(); ++c) sum += test::silu(q[c]) * k[c];
      return std::exp(sum / std::sqrt(double(q.size())));
    };
    EXPECT_TRUE(test::agrees_with(in, in.output([](auto const&... t) { non_approximate_attention(t...); }), with));
  }
}

TEST(Aaren, RefusesWhatDoesNotFit) {
  sequence_inputs<float> const in({2, 4, 2, 2, 9, 9, 8, 5}, 8);
  auto output = test::filled<float, 4>({2, 4, 9, 5}, 7);
  auto const message = [&](std::array<index_t, 3> query, auto const&... options) -> std::string {
    auto const q = test::filled<float, 3>(query, 1);
    try {
      aaren_attention(q.view(), in.key.view(), in.value.view(), output.view(), options...);
    } catch (argument_error const& error) {
      for (float x : output.elements) EXPECT_EQ(x, 7);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message({3, 4, 8}), "query: expected 1 or 2 batches (as key), got 3");
  EXPECT_EQ(message({1, 4, 7}), "key: expected head dimension 7 (as query), got 8");
  EXPECT_EQ(message({1, 3, 8}), "key: expected a head count that divides 3 (query), got 2");
  EXPECT_EQ(message({1, 4, 8}, scale(infinity<double>)), "scale: expected a finite number, got inf");
  EXPECT_EQ(message({1, 4, 8}, scale(1e300)), "scale: expected a finite number, got inf");
  auto mean = test::filled<float, 4>({2, 2, 1, 5}, 0);
  auto log = test::filled<float, 3>({2, 2, 1}, 0);
  EXPECT_EQ(
      message({1, 4, 8}, initial_state(mean.view(), log.view())),
      "initial_state: expected shape [2, 4, 1, 5] (batch, state head, feature, value dimension), got [2, 2, 1, 5]");
  EXPECT_EQ(message({1, 4, 8}), "");
  auto const few = test::filled<float, 4>({2, 4, 8, 8}, 1);
  EXPECT_THROW(non_approximate_attention(few.view(), in.key.view(), in.value.view(), output.view()), argument_error);
}

}  // namespace
}  // namespace attend
