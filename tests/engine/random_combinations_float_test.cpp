// SPDX-License-Identifier: BSD-3-Clause
// Random problems in float, with every normalizer.
#include <attend/policy/normalizer/relu.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/normalizer/sinks.hpp>

#include "engine/random_combinations.hpp"

namespace attend {
using namespace options;

namespace {

TEST(RandomCombinationsInFloat, OfSoftmax) {
  test::expect_random_combinations<float>(1000, 60, softmax{}, [](auto&, auto const&) {});
}

TEST(RandomCombinationsInFloat, OfSinks) {
  test::expect_random_combinations<float>(
      2000, 30, sinks(1.5), [](reference::options& with, auto const&) { with.sink = [](index_t) { return 1.5; }; });
}

TEST(RandomCombinationsInFloat, OfSigmoid) {
  test::expect_random_combinations<float>(3000, 30, sigmoid_weights{},
                                          [](reference::options& with, test::placed_sequence const& s) {
                                            with.settings = reference::normalizer::sigmoid;
                                            with.sigmoid_bias = -std::log(std::max(1.0, static_cast<double>(s.keys)));
                                          });
}

TEST(RandomCombinationsInFloat, OfRelu) {
  test::expect_random_combinations<float>(
      4000, 30, relu_weights{relu_scaling::count},
      [](reference::options& with, auto const&) { with.settings = reference::normalizer::relu_by_count; });
}

}  // namespace
}  // namespace attend
