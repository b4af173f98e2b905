// SPDX-License-Identifier: BSD-3-Clause
// After a warm-up call of the same shape, linear attention allocates nothing. This program counts all allocations.
#include <attend/policy/feature/elu.hpp>

#include "support/count_allocations.hpp"
#include "support/linear_problem.hpp"

namespace attend {
using namespace linear;
using namespace runtime;

namespace {

template <class... Options>
void expect_one_warm_up(test::linear_inputs<float> const& in, Options const&... options) {
  auto output =
      test::filled<float, 4>({in.size.batches, in.size.output_heads(), in.size.queries, in.size.value_dimension}, 7);
  auto state = in.state;
  release_scratch();
  auto const [first, second] = test::allocations_of_two([&] {
    linear_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), options...,
                     initial_state(state.view()), final_state(state.view()));
  });
  EXPECT_GT(first, 0);
  EXPECT_EQ(second, 0);
}

TEST(LinearAllocations, HappenInTheFirstCallOnly) {
  for (index_t tokens : {1, 300}) {
    test::linear_inputs<float> const in({2, 4, 2, 2, tokens, tokens, 33, 70}, 1);
    expect_one_warm_up(in, causal{});
    expect_one_warm_up(in, elementwise_features([](auto x) { return x * x; }));
    expect_one_warm_up(in, causal{}, feature_decay(in.key_decays.view()));
    expect_one_warm_up(in, causal{}, delta_rule(in.rates.view()), token_decay(in.token_decays.view()));
  }
}

// Which thread takes which task is chance; after some calls each has what it needs.
TEST(LinearAllocations, CeaseWithThreadsToo) {
  test::linear_inputs<float> const in({1, 1, 1, 1, 400, 400, 64, 128}, 1);
  auto output = test::filled<float, 4>({1, 1, 400, 128}, 7);
  int quiet = 0;
  for (int call = 0; call < 1000 && quiet < 10; ++call) {
    long const before = test::allocations;
    linear_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), causal{},
                     token_decay(in.token_decays.view()), threads{2});
    quiet = test::allocations == before ? quiet + 1 : 0;
  }
  EXPECT_EQ(quiet, 10);
}

}  // namespace
}  // namespace attend
