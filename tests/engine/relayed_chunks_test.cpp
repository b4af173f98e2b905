// SPDX-License-Identifier: BSD-3-Clause
// Threads share the chunks of a head: outputs, states and sums of keys have the bits that one thread computes, for any
// number of threads, also where they are more than the processors, and for several callers at once.
#include <attend/policy/feature/elu.hpp>
#include <attend/policy/feature/taylor.hpp>
#include <attend/policy/state/normalizer.hpp>
#include <attend/policy/update/update.hpp>
#include <thread>

#include "support/linear_problem.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace linear;
using namespace extend;

namespace {

constexpr index_t most_workers = 33;

/// Calls the engine as a call with so many threads does on a machine that has them; `count` of them are there.
template <class T, class... Options>
test::linear_outputs<T> run(test::linear_inputs<T> const& in, index_t workers, int count, bool in_place,
                            Options const&... options) {
  using A = accumulation_t<T>;
  test::linear_sizes const& s = in.size;
  test::linear_outputs<T> out{test::filled<T, 4>({s.batches, s.output_heads(), s.queries, s.value_dimension}, T(7)),
                              in.state, in.key_sum};
  engine::state_problem<T> problem;
  problem.query = in.query.view();
  problem.key = in.key.view();
  problem.value = in.value.view();
  problem.output = out.output.view();
  scratch memory;
  auto const start = [&](auto const& plan) {
    auto const policies = plan.policies();
    engine::erased_state_policies<A, std::remove_const_t<decltype(policies)>> const erased(policies);
    engine::erased_state_call<T, std::remove_const_t<decltype(policies)>, void> const call(policies, erased, nullptr);
    threads executor{count};
    engine::run_chunked_tasks<T>(plan.problem, call, workers, attend::detail::any_executor(executor));
  };
  auto const from_state = [&](auto const& state, auto const& sum) {
    if constexpr (test::detail::sums_keys<Options...>)
      start(call::plan_states(problem, memory, options..., initial_state(state.view(), sum.view()),
                              final_state(out.state.view(), out.key_sum.view())));
    else
      start(call::plan_states(problem, memory, options..., initial_state(state.view()), final_state(out.state.view())));
  };
  in_place ? from_state(out.state, out.key_sum) : from_state(in.state, in.key_sum);
  return out;
}

template <class T>
void expect_same(test::linear_outputs<T> const& got, test::linear_outputs<T> const& expected) {
  EXPECT_TRUE(test::same_bits(got.output.elements, expected.output.elements)) << "output";
  EXPECT_TRUE(test::same_bits(got.state.elements, expected.state.elements)) << "state";
  EXPECT_TRUE(test::same_bits(got.key_sum.elements, expected.key_sum.elements)) << "sum of keys";
}

template <class T, class... Options>
void expect_same_bits(test::linear_sizes const& s, test::linear_inputs<T> const& in, Options const&... options) {
  auto const alone = run(in, 1, 1, false, options...);
  for (index_t const workers : {2, 3, 5, 16, 33}) {
    SCOPED_TRACE(testing::Message() << s << ", " << workers << " threads");
    expect_same(run(in, workers, 3, workers == 3, options...), alone);
  }
  SCOPED_TRACE(testing::Message() << s << ", 16 threads of which one comes");
  expect_same(run(in, 16, 1, true, options...), alone);
}

/// Long enough that more threads than processors are worth waking; the last chunk is short.
constexpr test::linear_sizes long_head{1, 1, 1, 1, 6021, 6021, 40, 70};

/// Whether threads share the chunks of such a problem: else the tests below would be about something else.
TEST(RelayedChunks, AreWhatTheseProblemsUse) {
  engine::state_problem<float> p;
  p.shape = {1, 1, 1, 1, long_head.queries, long_head.keys, long_head.key_dimension, long_head.value_dimension};
  p.shape.features = long_head.key_dimension;
  for (index_t const workers : {index_t{3}, index_t{16}, most_workers}) {
    auto const cut = engine::chunk_cut::of(p, 32, false, engine::head_sharing::added_chunks, workers);
    EXPECT_EQ(cut.sharers, workers);
    // Runs of one chunk and of several.
    EXPECT_EQ(cut.run > 1, workers < most_workers);
    EXPECT_GT(engine::chunk_cut::of(p, 32, false, engine::head_sharing::solved_chunks, workers).sharers, 2);
  }
}

template <class T>
void expect_same_bits_of_decays() {
  test::linear_inputs<T> const in(long_head, 3);
  expect_same_bits(long_head, in, causal{});
  expect_same_bits(long_head, in, causal{}, head_decay(in.head_decays.view()));
  expect_same_bits(long_head, in, causal{}, token_decay(in.token_decays.view()));
  expect_same_bits(long_head, in, causal{}, feature_decay(in.key_decays.view()));
}

TEST(RelayedChunks, HaveTheSameBitsWithEveryDecay) {
  expect_same_bits_of_decays<float>();
  expect_same_bits_of_decays<double>();
  expect_same_bits_of_decays<Eigen::bfloat16>();
}

TEST(RelayedChunks, HaveTheSameBitsWithFeaturesAndNormalizers) {
  test::linear_inputs<float> const in(long_head, 5);
  expect_same_bits(long_head, in, causal{}, elu_features{}, key_sum{});
  expect_same_bits(long_head, in, causal{}, elu_features{}, key_sum{}, token_decay(in.token_decays.view()));
  expect_same_bits(long_head, in, causal{}, elu_features{}, key_sum{}, input_gates(in.rates.view()));
  expect_same_bits(long_head, in, causal{}, rms_norm{}, feature_decay(in.key_decays.view()));
  test::linear_sizes small = long_head;
  small.key_dimension = 8;
  small.features = taylor_features{}.features(8);
  test::linear_inputs<float> const taylor(small, 6);
  expect_same_bits(small, taylor, causal{}, taylor_features{});
}

TEST(RelayedChunks, HaveTheSameBitsWithADeltaRule) {
  for (index_t const columns : {70, 128, 5}) {
    test::linear_sizes s = long_head;
    s.value_dimension = columns;
    test::linear_inputs<float> const in(s, 8);
    expect_same_bits(s, in, causal{}, delta_rule(in.rates.view()));
    expect_same_bits(s, in, causal{}, delta_rule(in.rates.view()), token_decay(in.token_decays.view()));
    expect_same_bits(s, in, causal{}, delta_rule(in.rates.view()), feature_decay(in.key_decays.view()), rms_norm{});
  }
  test::linear_inputs<Eigen::bfloat16> const narrow(long_head, 9);
  expect_same_bits(long_head, narrow, causal{}, delta_rule(narrow.rates.view()));
  test::linear_sizes const heads{2, 6, 3, 3, 700, 700, 24, 100}, fewer_queries{1, 2, 1, 1, 333, 1500, 32, 64};
  for (test::linear_sizes const& several : {heads, fewer_queries}) {
    test::linear_inputs<float> const in(several, 10);
    expect_same_bits(several, in, causal{}, delta_rule(in.rates.view()));
    expect_same_bits(several, in, delta_rule(in.rates.view()), token_decay(in.token_decays.view()));
  }
}

TEST(RelayedChunks, HaveTheSameBitsInEveryShape) {
  test::linear_sizes heads{2, 6, 3, 3, 700, 700, 24, 100}, fewer_queries{1, 2, 1, 1, 333, 1500, 32, 64},
      narrow{1, 1, 1, 1, 9000, 9000, 13, 5};
  for (test::linear_sizes const& s : {heads, fewer_queries, narrow}) {
    test::linear_inputs<float> const in(s, 7);
    expect_same_bits(s, in, causal{}, token_decay(in.token_decays.view()));
    expect_same_bits(s, in);
    expect_same_bits(s, in, elu_features{}, key_sum{});
    expect_same_bits(s, in, causal{}, chunk_length(17));
  }
}

TEST(RelayedChunks, AreNotUsedForALargeStateWhichHasTheSameBits) {
  test::linear_sizes s{1, 1, 1, 1, 200, 200, 64, 128};
  s.key_dimension = detail::machine::here().relay_bytes / (128 * static_cast<index_t>(sizeof(float))) + 1;
  engine::state_problem<float> p;
  p.shape = {1, 1, 1, 1, s.queries, s.keys, s.key_dimension, s.value_dimension};
  p.shape.features = s.key_dimension;
  for (auto const sharing : {engine::head_sharing::added_chunks, engine::head_sharing::solved_chunks})
    EXPECT_EQ(engine::chunk_cut::of(p, 32, false, sharing, 16).lines, 1);
  test::linear_inputs<float> const in(s, 12);
  expect_same_bits(s, in, causal{}, token_decay(in.token_decays.view()));
  expect_same_bits(s, in, causal{}, delta_rule(in.rates.view()));
}

TEST(RelayedChunks, AgreeWithTheDefinition) {
  test::linear_sizes const s{1, 1, 1, 1, 700, 700, 64, 64};
  test::linear_inputs<float> const in(s, 9);
  reference::linear_options with;
  with.log_decay = in.token_logs();
  EXPECT_TRUE(test::agrees(in, run(in, most_workers, 3, false, causal{}, token_decay(in.token_decays.view())), with));
  with.update = reference::state_update::delta;
  with.rate = in.by_token(in.rates);
  EXPECT_TRUE(test::agrees(
      in, run(in, most_workers, 3, false, causal{}, token_decay(in.token_decays.view()), delta_rule(in.rates.view())),
      with));
}

TEST(RelayedChunks, ServeSeveralCallersAtOnce) {
  test::linear_inputs<float> const in(long_head, 11);
  auto const alone = run(in, 1, 1, false, causal{}, token_decay(in.token_decays.view()));
  std::vector<test::linear_outputs<float>> got(4);
  std::vector<std::thread> callers;
  for (auto& to : got)
    callers.emplace_back([&] {
      for (int call = 0; call < 5; ++call)
        to = run(in, most_workers, 8, false, causal{}, token_decay(in.token_decays.view()));
    });
  for (std::thread& caller : callers) caller.join();
  for (auto const& each : got) expect_same(each, alone);
}

}  // namespace
}  // namespace attend
