// SPDX-License-Identifier: BSD-3-Clause
// Random problems in half.
#include <attend/policy/normalizer/relu.hpp>

#include "engine/random_combinations.hpp"

namespace attend {
using namespace options;

namespace {

TEST(RandomCombinationsInHalf, OfSoftmax) {
  test::expect_random_combinations<half>(1000, 60, softmax{}, [](auto&, auto const&) {});
}

// An epsilon as large as the logits keeps sums of little well conditioned.
TEST(RandomCombinationsInHalf, OfRelu) {
  test::expect_random_combinations<half>(2000, 30, relu_weights{relu_scaling::sum, 1},
                                         [](reference::options& with, auto const&) {
                                           with.settings = reference::normalizer::relu_by_sum;
                                           with.relu_epsilon = 1;
                                         });
}

}  // namespace
}  // namespace attend
