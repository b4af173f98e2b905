// SPDX-License-Identifier: BSD-3-Clause
// InLine attention against its definition.
#include <attend/attention/linear/inline_attention.hpp>
#include <attend/core/eigen_tensor.hpp>
#include <attend/policy/feature/exponential.hpp>
#include <attend/policy/feature/rotation.hpp>
#include <attend/reference/inline_attention.hpp>

#include "support/sequence_problem.hpp"

namespace attend {
using namespace options;
using namespace linear;
using namespace extend;
using namespace systems;

namespace {

using reference::row;
using test::sequence_inputs;

TEST(InLine, SubtractsTheMeanAndAddsAnEvenShare) {
  unsigned seed = 1;
  for (auto const& s : test::awkward_sequences()) {
    sequence_inputs<float> const in(s, seed += 10);
    double const factor = 1 / std::sqrt(double(s.dimension)) / double(s.keys);
    auto const expected =
        reference::inline_attention<float>(in.query.view(), in.key.view(), in.value.view(),
                                           [&](row const& q, row const& k) { return factor * reference::dot(q, k); });
    for (index_t chunk : {64, 16})
      EXPECT_TRUE(test::agrees_with(
          in.output([&](auto const&... t) { inline_attention(t..., scale(factor), chunk_length(chunk)); }), expected));
  }
}

TEST(InLine, WithFeatures) {
  sequence_inputs<double> const in({2, 2, 1, 1, 30, 50, 9, 11}, 2);
  auto const expected = reference::inline_attention<double>(in.query.view(), in.key.view(), in.value.view(),
                                                            [](row const& q, row const& k) {
                                                              double sum = 0;
                                                              for (std::size_t c = 0; c < q.size(); ++c)
                                                                sum += std::exp(q[c] + k[c]);
                                                              return sum;
                                                            });
  EXPECT_TRUE(
      test::agrees_with(in.output([](auto const&... t) { inline_attention(t..., exponential_features{}); }), expected));
}

TEST(InLine, TheLastQueryStandsAtTheLastKey) {
  sequence_inputs<double> const in({1, 2, 1, 1, 4, 70, 6, 5}, 6);
  std::vector<double> const angle = {0.3};
  auto const turned = [&](test::tensor<double, 4> const& x, index_t first) {
    auto const [batches, heads, tokens, dimension] = x.extents;
    auto result = test::filled<double, 4>({batches, heads, tokens, 2 * dimension}, 0);
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < tokens; ++i)
        for (index_t c = 0; c < dimension; ++c) {
          result.view()(0, h, i, c) = x.view()(0, h, i, c) * std::cos(angle[0] * double(first + i));
          result.view()(0, h, i, dimension + c) = x.view()(0, h, i, c) * std::sin(angle[0] * double(first + i));
        }
    return result;
  };
  auto const query = turned(in.query, 66), key = turned(in.key, 0);
  auto const expected = reference::inline_attention<double>(
      query.view(), key.view(), in.value.view(), [](row const& q, row const& k) { return 0.1 * reference::dot(q, k); });
  auto const turns = rotated(identity_features{}, angle);
  EXPECT_TRUE(
      test::agrees_with(in.output([&](auto const&... t) { inline_attention(t..., turns, scale(0.1)); }), expected));
}

TEST(InLine, EqualValuesComeBack) {
  // Weights sum to 1 whatever they are.
  sequence_inputs<float> in({1, 1, 1, 1, 20, 300, 16, 5}, 3);
  std::fill(in.value.elements.begin(), in.value.elements.end(), 2.5f);
  auto expected =
      reference::inline_attention<float>(in.query.view(), in.key.view(), in.value.view(),
                                         [](row const& q, row const& k) { return 0.01 * reference::dot(q, k); });
  // The result is known; the definition says how large the terms are that it is a sum of.
  std::fill(expected.output.begin(), expected.output.end(), 2.5);
  EXPECT_TRUE(test::agrees_with(in.output([](auto const&... t) { inline_attention(t..., scale(0.01)); }), expected));
}

TEST(InLine, TheSameBitsForAnyNumberOfThreads) {
  sequence_inputs<float> const in({1, 3, 3, 3, 500, 500, 64, 64}, 4);
  auto const one = in.output([](auto const&... t) { inline_attention(t..., scale(0.01)); });
  EXPECT_EQ(one.elements,
            in.output([](auto const&... t) { inline_attention(t..., scale(0.01), threads{2}); }).elements);
}

TEST(InLine, RefusesWhatDoesNotFitBeforeAnythingIsWritten) {
  sequence_inputs<float> const in({1, 2, 2, 2, 5, 6, 8, 4}, 5);
  auto output = test::filled<float, 4>({1, 2, 5, 4}, 7);
  auto const message = [&](auto const& q, auto const& k, auto const& v, auto const& o,
                           auto const&... options) -> std::string {
    try {
      inline_attention(q, k, v, o, options...);
    } catch (argument_error const& error) {
      return error.what();
    }
    return "";
  };
  auto const short_values = test::filled<float, 4>({1, 2, 5, 4}, 1);
  EXPECT_EQ(message(in.query.view(), in.key.view(), short_values.view(), output.view()),
            "value: expected tokens 6 (as key), got 5");
  auto const wide_keys = test::filled<float, 4>({1, 2, 6, 9}, 1);
  EXPECT_EQ(message(in.query.view(), wide_keys.view(), in.value.view(), output.view()),
            "key: expected head dimension 8 (as query), got 9");
  EXPECT_EQ(message(in.query.view(), in.key.view(), in.value.view(), output.view(), scale(infinity<double>)),
            "scale: expected a finite number, got inf");
  EXPECT_EQ(message(in.query.view(), in.key.view(), in.value.view(), output.view(), scale(1e300)),
            "scale: expected a finite number, got inf");
  EXPECT_EQ(message(in.query.view(), in.key.view(), in.value.view(), output.view(), chunk_length(0)),
            "chunk_length: expected 1 to 256 tokens, got 0");
  tensor_view<float, 4> const over_query(const_cast<float*>(in.query.elements.data()), {1, 2, 5, 4});
  EXPECT_EQ(message(in.query.view(), in.key.view(), in.value.view(), over_query),
            "output: expected memory of its own, got memory that overlaps query");
  for (float x : output.elements) EXPECT_EQ(x, 7);
}

}  // namespace
}  // namespace attend
