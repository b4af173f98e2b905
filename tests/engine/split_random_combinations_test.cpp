// SPDX-License-Identifier: BSD-3-Clause
// Random problems by the split engine: shapes, sequences, masks, scores, gates and threads, all at once.
#include <attend/policy/normalizer/sinks.hpp>

#include "engine/random_combinations.hpp"

namespace attend {
namespace {

TEST(SplitRandomCombinations, OfSoftmax) {
  test::expect_random_combinations<float, true>(5000, 60, softmax{}, [](auto&, auto const&) {});
}

TEST(SplitRandomCombinations, OfSinks) {
  test::expect_random_combinations<bfloat16, true>(
      6000, 30, sinks(1.5), [](reference::options& with, auto const&) { with.sink = [](index_t) { return 1.5; }; });
}

}  // namespace
}  // namespace attend
