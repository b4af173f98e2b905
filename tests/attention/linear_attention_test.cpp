// SPDX-License-Identifier: BSD-3-Clause
// Linear attention against the recurrence in double: every kind of decay and update, awkward shapes, any chunk length.
#include <attend/policy/feature/elu.hpp>
#include <attend/policy/feature/relu.hpp>

#include "support/linear_problem.hpp"

namespace attend {
using namespace linear;

namespace {

using reference::linear_options;
using reference::state_divisor;
using reference::state_update;

/// Calls check(inputs, chunk) for awkward shapes and several chunk lengths; 0 is the usual one.
template <class Check>
void for_awkward_problems(Check&& check) {
  unsigned seed = 1;
  for (auto const& s : test::awkward_linear_sizes()) {
    test::linear_inputs<float> const in(s, seed += 10);
    for (index_t chunk : {64, 1, 16, 23, 256}) check(in, chunk_length(chunk));
  }
}

TEST(LinearAttention, WithoutDecay) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    EXPECT_TRUE(test::agrees(in, test::attend_linearly(in, causal{}, chunk), {})) << chunk.tokens;
    linear_options all;
    all.causal = false;
    EXPECT_TRUE(test::agrees(in, test::attend_linearly(in, chunk), all)) << chunk.tokens;
  });
}

TEST(LinearAttention, WithDecayOfHeads) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.log_decay = in.head_logs();
    EXPECT_TRUE(test::agrees(in, test::attend_linearly(in, causal{}, head_decay(in.head_decays.view()), chunk), with));
  });
}

TEST(LinearAttention, WithDecayOfTokens) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.scale = 0.5;
    with.log_decay = in.token_logs();
    EXPECT_TRUE(test::agrees(
        in, test::attend_linearly(in, causal{}, token_decay(in.token_decays.view()), chunk, scale(0.5)), with));
  });
}

TEST(LinearAttention, WithDecayOfKeys) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.log_decay = in.key_logs();
    EXPECT_TRUE(
        test::agrees(in, test::attend_linearly(in, causal{}, feature_decay(in.key_decays.view()), chunk), with));
  });
}

TEST(LinearAttention, WithInputGates) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.log_decay = in.token_logs();
    with.rate = in.by_token(in.rates);
    EXPECT_TRUE(test::agrees(
        in,
        test::attend_linearly(in, causal{}, input_gates(in.rates.view()), token_decay(in.token_decays.view()), chunk),
        with));
  });
}

TEST(LinearAttention, WithADeltaRule) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.update = state_update::delta;
    with.rate = in.by_token(in.rates);
    EXPECT_TRUE(test::agrees(in, test::attend_linearly(in, causal{}, delta_rule(in.rates.view()), chunk), with));
    with.causal = false;
    EXPECT_TRUE(test::agrees(in, test::attend_linearly(in, delta_rule(in.rates.view()), chunk), with));
  });
}

TEST(LinearAttention, WithAGatedDeltaRule) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.update = state_update::delta;
    with.rate = in.by_token(in.rates);
    with.log_decay = in.token_logs();
    EXPECT_TRUE(test::agrees(
        in,
        test::attend_linearly(in, causal{}, delta_rule(in.rates.view()), token_decay(in.token_decays.view()), chunk),
        with));
  });
}

TEST(LinearAttention, WithADeltaRuleAndDecayOfKeys) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.update = state_update::delta;
    with.rate = in.by_token(in.rates);
    with.log_decay = in.key_logs();
    EXPECT_TRUE(test::agrees(
        in,
        test::attend_linearly(in, causal{}, delta_rule(in.rates.view()), feature_decay(in.key_decays.view()), chunk),
        with));
  });
}

std::vector<double> elu_and_one(std::vector<double> row, bool, index_t, index_t, index_t) {
  for (double& x : row) x = x > 0 ? x + 1 : std::exp(x);
  return row;
}

TEST(LinearAttention, DividedByTheSumOfKeys) {
  for_awkward_problems([](auto in, chunk_length chunk) {
    // Sums of positive keys are far from 0, as the formula wants it.
    for (float& x : in.state.elements) x = std::abs(x);
    linear_options with;
    with.divisor = state_divisor::key_sum;
    with.features = elu_and_one;
    EXPECT_TRUE(test::agrees(in, test::attend_linearly(in, causal{}, elu_features{}, key_sum{}, chunk), with));
    with.causal = false;
    EXPECT_TRUE(test::agrees(in, test::attend_linearly(in, elu_features{}, key_sum{}, chunk), with));
  });
}

TEST(LinearAttention, DividedByTheSumOfDecayedKeys) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.divisor = state_divisor::key_sum;
    with.features = elu_and_one;
    with.log_decay = in.key_logs();
    with.rate = in.by_token(in.rates);
    with.scale = 2;
    with.epsilon = 0.5;
    EXPECT_TRUE(test::agrees(in,
                             test::attend_linearly(in, causal{}, elu_features{}, key_sum{0.5}, scale(2), chunk,
                                                   feature_decay(in.key_decays.view()), input_gates(in.rates.view())),
                             with));
  });
}

TEST(LinearAttention, DividedByTheRootMeanSquare) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.divisor = state_divisor::root_mean_square;
    with.log_decay = in.head_logs();
    with.epsilon = 1e-2;
    with.scale = 0.25;
    EXPECT_TRUE(test::agrees(
        in, test::attend_linearly(in, causal{}, rms_norm{1e-2}, scale(0.25), chunk, head_decay(in.head_decays.view())),
        with));
  });
}

TEST(LinearAttention, OfRectifiedAndOfTheCallersFeatures) {
  test::linear_inputs<float> const in({1, 2, 1, 1, 70, 70, 19, 21}, 1);
  linear_options with;
  with.features = [](std::vector<double> row, bool, index_t, index_t, index_t) {
    for (double& x : row) x = std::max(x, 0.0);
    return row;
  };
  EXPECT_TRUE(test::agrees(in, test::attend_linearly(in, causal{}, relu_features{}), with));
  with.features = [](std::vector<double> row, bool, index_t, index_t, index_t) {
    for (double& x : row) x = x * x + 1;
    return row;
  };
  auto const square = elementwise_features([](auto x) { return x * x + 1.0f; });
  EXPECT_TRUE(test::agrees(in, test::attend_linearly(in, causal{}, square), with));
}

}  // namespace
}  // namespace attend
