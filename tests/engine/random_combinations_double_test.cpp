// SPDX-License-Identifier: BSD-3-Clause
// Random problems in double.
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/normalizer/sinks.hpp>

#include "engine/random_combinations.hpp"

namespace attend {
using namespace options;

namespace {

TEST(RandomCombinationsInDouble, OfSoftmax) {
  test::expect_random_combinations<double>(1000, 60, softmax{}, [](auto&, auto const&) {});
}

TEST(RandomCombinationsInDouble, OfSinks) {
  test::expect_random_combinations<double>(
      2000, 30, sinks(-0.5), [](reference::options& with, auto const&) { with.sink = [](index_t) { return -0.5; }; });
}

TEST(RandomCombinationsInDouble, OfSigmoid) {
  test::expect_random_combinations<double>(3000, 30, sigmoid_weights(0.5), [](reference::options& with, auto const&) {
    with.settings = reference::normalizer::sigmoid;
    with.sigmoid_bias = 0.5;
  });
}

}  // namespace
}  // namespace attend
