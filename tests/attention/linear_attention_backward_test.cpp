// SPDX-License-Identifier: BSD-3-Clause
// Gradients of linear attention against the recurrence backward through time, in double: every kind of decay and
// update, awkward shapes, any chunk length.
#include <attend/attention/linear/linear_attention_backward.hpp>
#include <attend/policy/feature/elu.hpp>
#include <attend/reference/linear_backward.hpp>

#include "support/linear_gradients.hpp"

namespace attend {
using namespace linear;

namespace {

using reference::linear_options;
using reference::state_divisor;
using reference::state_update;

template <class Check>
void for_awkward_problems(Check&& check) {
  unsigned seed = 1;
  for (auto const& s : test::awkward_linear_sizes()) {
    test::linear_inputs<float> const in(s, seed += 10);
    for (index_t chunk : {64, 1, 16, 23}) check(in, chunk_length(chunk));
  }
}

TEST(LinearBackward, WithoutDecay) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    EXPECT_TRUE(test::gradients_agree(in, {}, causal{}, chunk)) << chunk.tokens;
    linear_options all;
    all.causal = false;
    EXPECT_TRUE(test::gradients_agree(in, all, chunk)) << chunk.tokens;
  });
}

TEST(LinearBackward, WithDecayOfHeads) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.log_decay = in.head_logs();
    EXPECT_TRUE(test::gradients_agree(in, with, causal{}, head_decay(in.head_decays.view()), chunk)) << chunk.tokens;
  });
}

TEST(LinearBackward, WithDecayOfTokens) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.scale = 0.5;
    with.log_decay = in.token_logs();
    EXPECT_TRUE(test::gradients_agree(in, with, causal{}, token_decay(in.token_decays.view()), chunk, scale(0.5)))
        << chunk.tokens;
    with.causal = false;
    EXPECT_TRUE(test::gradients_agree(in, with, token_decay(in.token_decays.view()), chunk, scale(0.5)))
        << chunk.tokens;
  });
}

TEST(LinearBackward, WithDecayOfKeys) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.log_decay = in.key_logs();
    EXPECT_TRUE(test::gradients_agree(in, with, causal{}, feature_decay(in.key_decays.view()), chunk)) << chunk.tokens;
  });
}

TEST(LinearBackward, WithInputGates) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.log_decay = in.token_logs();
    with.rate = in.by_token(in.rates);
    EXPECT_TRUE(test::gradients_agree(in, with, causal{}, input_gates(in.rates.view()),
                                      token_decay(in.token_decays.view()), chunk))
        << chunk.tokens;
  });
}

TEST(LinearBackward, WithADeltaRule) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.update = state_update::delta;
    with.rate = in.by_token(in.rates);
    EXPECT_TRUE(test::gradients_agree(in, with, causal{}, delta_rule(in.rates.view()), chunk)) << chunk.tokens;
    with.causal = false;
    EXPECT_TRUE(test::gradients_agree(in, with, delta_rule(in.rates.view()), chunk)) << chunk.tokens;
  });
}

TEST(LinearBackward, WithAGatedDeltaRule) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.update = state_update::delta;
    with.rate = in.by_token(in.rates);
    with.log_decay = in.token_logs();
    EXPECT_TRUE(test::gradients_agree(in, with, causal{}, delta_rule(in.rates.view()),
                                      token_decay(in.token_decays.view()), chunk))
        << chunk.tokens;
  });
}

TEST(LinearBackward, WithADeltaRuleAndDecayOfKeys) {
  for_awkward_problems([](auto const& in, chunk_length chunk) {
    linear_options with;
    with.update = state_update::delta;
    with.rate = in.by_token(in.rates);
    with.log_decay = in.key_logs();
    EXPECT_TRUE(test::gradients_agree(in, with, causal{}, delta_rule(in.rates.view()),
                                      feature_decay(in.key_decays.view()), chunk))
        << chunk.tokens;
  });
}

}  // namespace
}  // namespace attend
