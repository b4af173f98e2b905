// SPDX-License-Identifier: BSD-3-Clause
// After a warm-up call of the same shape, a call allocates nothing. This program counts all allocations.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/boolean_mask.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/normalizer/sinks.hpp>
#include <attend/policy/score/bias.hpp>
#include <attend/policy/sequence/sequences.hpp>
#include <attend/policy/slots.hpp>

#include "support/boolean_tensor.hpp"
#include "support/count_allocations.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace options;
using namespace runtime;

namespace {

TEST(Allocations, HappenInTheFirstCallOnly) {
  test::sizes const s{.batches = 2,
                      .query_heads = 4,
                      .key_heads = 2,
                      .value_heads = 1,
                      .queries = 90,
                      .keys = 300,
                      .key_dimension = 33,
                      .value_dimension = 35};
  auto const in = test::random_inputs<float>(s, 1);
  auto out = test::filled<float, 4>({2, 4, 90, 35}, 7);
  auto lse = test::filled<float, 3>({2, 4, 90}, 7);
  auto pairs = test::filled<float, 4>({2, 4, 90, 300}, 7);
  auto const slot_key = test::normal<float, 4>({1, 2, 150, 33}, 4),
             slot_value = test::normal<float, 4>({1, 1, 150, 35}, 5);
  auto const added = test::normal<float, 2>({90, 300}, 3);
  auto const seen = test::random_booleans<2>({90, 300}, 4);
  std::vector<float> const logits{0, 1, 2, 3};
  std::vector<std::int64_t> const lengths{300, 20};
  release_scratch();

  auto [first, second] =
      test::allocations_of_two([&] { softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view()); });
  EXPECT_GT(first, 0);
  EXPECT_EQ(second, 0);
  std::tie(first, second) = test::allocations_of_two([&] {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), causal{} & boolean_mask(seen.view()),
                      bias(added.view()), sinks(logits), log_sum_exp(lse.view()), weights(pairs.view()),
                      prefix_key_values(slot_key.view(), slot_value.view()), padded_keys(lengths));
  });
  EXPECT_EQ(second, 0);
}

TEST(Allocations, HappenInTheFirstCallOnlyForNarrowElements) {
  auto const in = test::random_inputs<bfloat16>(
      {.query_heads = 2, .queries = 400, .keys = 200, .key_dimension = 64, .value_dimension = 64}, 1);
  auto out = test::filled<bfloat16, 4>({1, 2, 400, 64}, bfloat16(7));
  release_scratch();
  auto const [first, second] =
      test::allocations_of_two([&] { softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view()); });
  EXPECT_GT(first, 0);
  EXPECT_EQ(second, 0);
}

// Shapes that come again find the memory that the largest of them took.
TEST(Allocations, CeaseOnceAllShapesWereSeen) {
  auto const round = [&](bool count) {
    long allocated = 0;
    for (index_t tokens : {7, 300, 60, 150, 1}) {
      auto const in = test::random_inputs<float>(
          {.query_heads = 2, .queries = tokens, .keys = 2 * tokens, .value_dimension = 21}, 1);
      auto out = test::filled<float, 4>({1, 2, tokens, 21}, 7);
      long const before = test::allocations;
      softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view());
      allocated += test::allocations - before;
    }
    return count ? allocated : 0;
  };
  release_scratch();
  round(false);
  EXPECT_EQ(round(true), 0);
}

// Which thread takes which task is chance; after some calls each has what it needs.
TEST(Allocations, CeaseWithThreadsToo) {
  auto const in = test::random_inputs<float>({.query_heads = 8, .queries = 300, .keys = 300}, 1);
  auto out = test::filled<float, 4>({1, 8, 300, 8}, 7);
  int quiet = 0;
  for (int call = 0; call < 1000 && quiet < 10; ++call) {
    long const before = test::allocations;
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), threads{2});
    quiet = test::allocations == before ? quiet + 1 : 0;
  }
  EXPECT_EQ(quiet, 10);
}

}  // namespace
}  // namespace attend
