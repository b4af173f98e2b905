// SPDX-License-Identifier: BSD-3-Clause
// Long sequences: 65536 tokens, decays from 1 to 1e-4, any chunk length, within 200 unit roundoffs of the recurrence in
// double.
#include "support/linear_problem.hpp"

#include <attend/core/scratch.hpp>

#include <array>

namespace attend {
using namespace linear;
using namespace runtime;
using namespace extend;

namespace {

constexpr index_t tokens = 65536;

/// The greatest distance, as a fraction of the greatest expected number.
template <class Got>
double relative_error(Got const& got, std::vector<double> const& expected) {
  double distance = 0, largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    distance = std::max(distance, std::abs(static_cast<double>(got[i]) - expected[i]));
    largest = std::max(largest, std::abs(expected[i]));
  }
  return distance / largest;
}

template <class... Options>
void expect_close(test::linear_inputs<float> const& in, reference::linear_options with, Options const&... options) {
  with.state.assign(in.state.elements.begin(), in.state.elements.end());
  auto const expected = reference::linear_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  for (index_t chunk : {64, 1, 37, 256}) {
    auto const got = test::attend_linearly(in, causal{}, chunk_length(chunk), options...);
    EXPECT_LE(relative_error(got.output.elements, expected.output), test::tolerance<float>(1)) << chunk;
    EXPECT_LE(relative_error(got.state.elements, expected.state), test::tolerance<float>(1)) << chunk;
  }
}

test::linear_inputs<float> long_inputs() { return test::linear_inputs<float>({1, 1, 1, 1, tokens, tokens, 8, 16}, 1); }

TEST(LongLinearAttention, WithoutDecay) { expect_close(long_inputs(), {}); }

TEST(LongLinearAttention, WithConstantDecays) {
  auto in = long_inputs();
  for (double decay : {0.99999, 0.9999, 0.5, 1e-4}) {
    in.head_decays.elements = {static_cast<float>(std::log(decay))};
    reference::linear_options with;
    with.log_decay = in.head_logs();
    expect_close(in, with, head_decay(in.head_decays.view()));
  }
}

TEST(LongLinearAttention, WithDecaysOfTokensAndKeys) {
  auto in = long_inputs();
  // From 1 to 1e-4, evenly in the logarithm of the logarithm.
  auto const spread = [](std::vector<float>& logs) {
    for (std::size_t i = 0; i < logs.size(); ++i)
      logs[i] = i % 7 == 0 ? 0.f : -static_cast<float>(std::exp(-12 + 14.2 * static_cast<double>(i * 37 % 101) / 101));
  };
  spread(in.token_decays.elements);
  spread(in.key_decays.elements);
  reference::linear_options with;
  with.log_decay = in.token_logs();
  expect_close(in, with, token_decay(in.token_decays.view()));
  with.log_decay = in.key_logs();
  expect_close(in, with, feature_decay(in.key_decays.view()));
  with.update = reference::state_update::delta;
  with.rate = in.by_token(in.rates);
  with.log_decay = in.token_logs();
  expect_close(in, with, delta_rule(in.rates.view()), token_decay(in.token_decays.view()));
}

// Among them one so strong that its product over a chunk is no number but 0, and 0 itself, whose features keep the last
// token whole. Each row of the state is held against its own size: that of decay 1 is far larger than the others.
TEST(LongLinearAttention, WithConstantDecaysOfKeys) {
  auto in = long_inputs();
  constexpr std::array decays{1., 0.999999, 0.9999, 0.99, 0.5, 1e-4, 1e-30, 0.};
  auto& logs = in.key_decays.elements;
  for (std::size_t i = 0; i < logs.size(); ++i) logs[i] = static_cast<float>(std::log(decays[i % decays.size()]));
  reference::linear_options with;
  with.log_decay = in.key_logs();
  expect_close(in, with, feature_decay(in.key_decays.view()));

  with.state.assign(in.state.elements.begin(), in.state.elements.end());
  auto const expected = reference::linear_attention<float>(in.query.view(), in.key.view(), in.value.view(), with);
  auto const got = test::attend_linearly(in, causal{}, feature_decay(in.key_decays.view()));
  std::size_t const columns = expected.state.size() / decays.size();
  for (std::size_t f = 0; f < decays.size(); ++f) {
    std::vector<double> const row(expected.state.begin() + f * columns, expected.state.begin() + (f + 1) * columns);
    EXPECT_LE(relative_error(got.state.elements.data() + f * columns, row), test::tolerance<float>(1)) << decays[f];
  }
}

TEST(LongLinearAttention, NeedsMemoryThatDoesNotGrow) {
  auto const memory_of = [](index_t count) {
    test::linear_inputs<float> const in({1, 1, 1, 1, count, count, 16, 16}, 1);
    release_scratch();
    test::attend_linearly(in, causal{}, token_decay(in.token_decays.view()));
    return scratch_bytes();
  };
  EXPECT_EQ(memory_of(500), memory_of(20000));
}

}  // namespace
}  // namespace attend
