// SPDX-License-Identifier: BSD-3-Clause
// One, two and three passes over the keys of a row agree with the definition, and the kernel with them.
#include <attend/reference/cascades.hpp>

#include "support/problem.hpp"

namespace attend {
using namespace options;

namespace {

struct row_of_problem {
  reference::row logits;
  std::vector<reference::row> values;
};

row_of_problem row_at(test::inputs<double> const& in, index_t query) {
  row_of_problem result;
  for (index_t j = 0; j < in.size.keys; ++j) {
    double s = 0;
    for (index_t c = 0; c < in.size.key_dimension; ++c)
      s += in.query.view()(0, 0, query, c) * in.key.view()(0, 0, j, c);
    result.logits.push_back(s / std::sqrt(static_cast<double>(in.size.key_dimension)));
    double const* const value = &in.value.view()(0, 0, j, 0);
    result.values.emplace_back(value, value + in.size.value_dimension);
  }
  return result;
}

TEST(Cascades, AgreeWithTheDefinitionAndTheKernel) {
  for (double deviation : {1.0, 6.0}) {
    auto const in = test::random_inputs<double>({.queries = 9, .keys = 257, .value_dimension = 5}, 1, deviation);
    auto expected = reference::softmax_attention<double>(in.query.view(), in.key.view(), in.value.view());
    auto const kernel = test::attend_to(in).output;
    double const largest = test::largest_magnitude(in.value.elements);
    for (index_t query = 0; query < 9; ++query) {
      auto const [logits, values] = row_at(in, query);
      reference::row const definition(&expected.at(0, 0, query, 0), &expected.at(0, 0, query, 0) + 5);
      reference::row const of_kernel(&kernel.view()(0, 0, query, 0), &kernel.view()(0, 0, query, 0) + 5);
      reference::row const three = reference::three_pass(logits, values);
      EXPECT_TRUE(test::near(three, definition, test::tolerance<double>(largest)));
      EXPECT_TRUE(test::near(of_kernel, three, test::tolerance<double>(largest)));
      for (std::size_t chunk : {1, 2, 64, 100, 257, 1000}) {
        EXPECT_TRUE(
            test::near(reference::two_pass(logits, values, chunk), definition, test::tolerance<double>(largest)))
            << chunk;
        EXPECT_TRUE(
            test::near(reference::one_pass(logits, values, chunk), definition, test::tolerance<double>(largest)))
            << chunk;
      }
    }
  }
}

// Logits that rise from chunk to chunk: what was summed up before is worth less and less.
TEST(Cascades, AgreeWhereTheMaximumRises) {
  reference::row logits;
  std::vector<reference::row> values;
  for (int j = 0; j < 200; ++j) {
    logits.push_back(0.1 * j);
    values.push_back({1.0 * j, -1.0});
  }
  // sum_j j r^j / sum_j r^j with r = exp(0.1), the largest terms first.
  double numerator = 0, denominator = 0;
  for (int j = 199; j >= 0; --j) {
    numerator += j * std::exp(0.1 * (j - 199));
    denominator += std::exp(0.1 * (j - 199));
  }
  reference::row const expected{numerator / denominator, -1};
  double const allowed = test::tolerance<double>(199);
  EXPECT_TRUE(test::near(reference::three_pass(logits, values), expected, allowed));
  for (std::size_t chunk : {1, 7, 200}) {
    EXPECT_TRUE(test::near(reference::two_pass(logits, values, chunk), expected, allowed)) << chunk;
    EXPECT_TRUE(test::near(reference::one_pass(logits, values, chunk), expected, allowed)) << chunk;
  }
}

}  // namespace
}  // namespace attend
