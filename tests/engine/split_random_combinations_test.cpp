// SPDX-License-Identifier: BSD-3-Clause
// Random problems by the split engine: shapes, sequences, masks, scores, slots, gains, gates and threads, all at once,
// with each normalizer and each element type.
#include <attend/policy/normalizer/relu.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/normalizer/sinks.hpp>

#include "engine/random_combinations.hpp"

namespace attend {
using namespace options;

namespace {

TEST(SplitRandomCombinations, OfSoftmax) {
  test::expect_random_combinations<float, true>(5000, 60, softmax{}, [](auto&, auto const&) {});
}

TEST(SplitRandomCombinations, OfSinks) {
  test::expect_random_combinations<bfloat16, true>(
      6000, 30, sinks(1.5), [](reference::options& with, auto const&) { with.sink = [](index_t) { return 1.5; }; });
}

TEST(SplitRandomCombinations, OfSigmoid) {
  test::expect_random_combinations<half, true>(
      7000, 30, sigmoid_weights{}, [](reference::options& with, test::placed_sequence const& s) {
        with.settings = reference::normalizer::sigmoid;
        with.sigmoid_bias = -std::log(std::max(1.0, static_cast<double>(s.keys)));
      });
}

TEST(SplitRandomCombinations, OfRelu) {
  test::expect_random_combinations<double, true>(
      8000, 30, relu_weights{relu_scaling::count},
      [](reference::options& with, auto const&) { with.settings = reference::normalizer::relu_by_count; });
}

}  // namespace
}  // namespace attend
