// SPDX-License-Identifier: BSD-3-Clause
// Random problems in bfloat16.
#include <attend/policy/normalizer/sinks.hpp>

#include "engine/random_combinations.hpp"

namespace attend {
using namespace options;

namespace {

TEST(RandomCombinationsInBfloat16, OfSoftmax) {
  test::expect_random_combinations<bfloat16>(1000, 60, softmax{}, [](auto&, auto const&) {});
}

// A sink of a head of its own: those of different heads are told apart.
TEST(RandomCombinationsInBfloat16, OfSinks) {
  std::vector<float> const logits{0, 1, -2, 3, -40, 5};
  for (unsigned seed = 2000; seed < 2030; ++seed) {
    test::random_problem<bfloat16> problem(seed);
    std::vector<float> const of_heads(logits.begin(), logits.begin() + problem.size.query_heads);
    EXPECT_TRUE(problem.agrees_with(sinks(of_heads),
                                    [&](reference::options& with, auto const&) {
                                      with.sink = [&](index_t head) {
                                        return static_cast<double>(of_heads[static_cast<std::size_t>(head)]);
                                      };
                                    }))
        << "seed " << seed;
  }
}

}  // namespace
}  // namespace attend
