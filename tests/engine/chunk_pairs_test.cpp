// SPDX-License-Identifier: BSD-3-Clause
// Linear attention of bfloat16 where a matrix unit may multiply: outputs and states against the recurrence, within what
// its parts leave out; the float path by full_precision{}; bits for any number of threads; infinities and NaN. Compiled
// for the processor at hand, and with an emulated matrix unit (tests/emulated_pairs).
#include <attend/policy/precision.hpp>
#include <attend/policy/state/normalizer.hpp>
#include <attend/policy/update/update.hpp>

#include "support/linear_problem.hpp"
#include "support/problem.hpp"

namespace attend {
using namespace linear;
using namespace options;
using namespace extend;

namespace {

using inputs = test::linear_inputs<bfloat16>;

/// Sums of what the terms of outputs and states are in size.
reference::linear_result sizes_of_terms(inputs in, reference::linear_options with) {
  for (auto* numbers : {&in.query.elements, &in.key.elements, &in.value.elements})
    for (bfloat16& x : *numbers) x = bfloat16(std::abs(static_cast<float>(x)));
  for (double& x : with.state) x = std::abs(x);
  with.divisor = reference::state_divisor::one;
  return reference::linear_attention<bfloat16>(in.query.view(), in.key.view(), in.value.view(), with);
}

/// Whether a result is the recurrence's. A factor in parts is wrong by 2^-16: what tokens write to a state, and then
/// that state where a query reads it, or a weight. An output is rounded once more. Sums in float add what tests of
/// floats allow.
testing::AssertionResult agrees(inputs const& in, test::linear_outputs<bfloat16> const& got,
                                reference::linear_options with) {
  with.state.assign(in.state.elements.begin(), in.state.elements.end());
  auto const expected = reference::linear_attention<bfloat16>(in.query.view(), in.key.view(), in.value.view(), with);
  auto const sizes = sizes_of_terms(in, with);
  auto const compare = [&](auto const& numbers, std::vector<double> const& exact, std::vector<double> const& size,
                           double of_parts, double rounding, char const* what) -> testing::AssertionResult {
    for (std::size_t i = 0; i < exact.size(); ++i)
      if (!(std::abs(static_cast<double>(numbers[i]) - exact[i]) <=
            rounding * std::abs(exact[i]) + (of_parts + 200 * 0x1p-24) * size[i]))
        return testing::AssertionFailure()
               << what << " at " << i << ": expected " << exact[i] << ", got " << static_cast<double>(numbers[i])
               << ", terms of " << size[i] << " (" << in.size << ")";
    return testing::AssertionSuccess();
  };
  if (auto const result = compare(got.output.elements, expected.output, sizes.output, 0x1p-15, 0x1p-8, "output");
      !result)
    return result;
  return compare(got.state.elements, expected.state, sizes.state, 0x1p-16, 0, "state");
}

/// Shapes that no tile divides, of which the unit has the latter ones, with fewer queries than keys among them.
std::vector<test::linear_sizes> sizes() {
  auto all = test::awkward_linear_sizes();
  all.push_back({1, 2, 2, 2, 300, 300, 40, 70});
  all.push_back({2, 4, 2, 2, 129, 129, 64, 64});
  all.push_back({1, 1, 1, 1, 260, 291, 96, 112});
  all.push_back({1, 2, 1, 1, 64, 64, 33, 65});
  all.push_back({1, 1, 1, 3, 77, 200, 45, 50});
  all.push_back({1, 1, 1, 1, 127, 127, 130, 17});
  all.push_back({1, 1, 1, 1, 100, 100, 2100, 1});
  return all;
}

// A gate is an update; a decay is none, or one for each head or token.
TEST(ChunkPairs, AgreeWithTheRecurrence) {
  for (auto const& s : sizes()) {
    inputs const in(s, 3);
    reference::linear_options with;
    EXPECT_TRUE(agrees(in, test::attend_linearly(in, causal{}), with));
    EXPECT_TRUE(agrees(in, test::attend_linearly(in, causal{}, chunk_length(100)), with));
    with.log_decay = in.head_logs();
    EXPECT_TRUE(agrees(in, test::attend_linearly(in, causal{}, head_decay(in.head_decays.view())), with));
    with.log_decay = in.token_logs();
    EXPECT_TRUE(agrees(in, test::attend_linearly(in, causal{}, token_decay(in.token_decays.view())), with));
    with.rate = in.by_token(in.rates);
    EXPECT_TRUE(agrees(
        in, test::attend_linearly(in, causal{}, token_decay(in.token_decays.view()), input_gates(in.rates.view())),
        with));
    with.log_decay = nullptr;
    EXPECT_TRUE(agrees(in, test::attend_linearly(in, causal{}, input_gates(in.rates.view())), with));
    with.causal = false;
    EXPECT_TRUE(agrees(in, test::attend_linearly(in, input_gates(in.rates.view())), with));
  }
}

// Sums of keys as they are, which no divisor of 0 may meet: numbers are positive.
TEST(ChunkPairs, DivideBySumsOfKeys) {
  inputs in({1, 4, 2, 2, 300, 300, 40, 70}, 8);
  for (auto* numbers : {&in.query.elements, &in.key.elements})
    for (bfloat16& x : *numbers) x = bfloat16(std::abs(static_cast<float>(x)));
  reference::linear_options with;
  with.log_decay = in.token_logs();
  with.divisor = reference::state_divisor::key_sum;
  EXPECT_TRUE(
      test::agrees(in, test::attend_linearly(in, causal{}, token_decay(in.token_decays.view()), key_sum{}), with));
}

// Sequences that are packed one after the other: a decay of 0 forgets the sequence before.
TEST(ChunkPairs, ForgetThePackedSequenceBefore) {
  inputs in({1, 2, 2, 2, 300, 300, 40, 70}, 9);
  for (index_t const first : {1, 31, 32, 100, 128, 290})
    for (index_t h = 0; h < 2; ++h) in.token_decays.view()(0, h, first) = -infinity<float>;
  reference::linear_options with;
  with.log_decay = in.token_logs();
  EXPECT_TRUE(agrees(in, test::attend_linearly(in, causal{}, token_decay(in.token_decays.view())), with));
}

TEST(ChunkPairs, LeaveFloatsAndFullPrecisionAsTheyAre) {
  inputs const in({1, 4, 2, 2, 300, 300, 40, 70}, 5);
  test::linear_inputs<float> floats(in.size, 5);
  auto const widen = [](auto const& from, auto& to) {
    for (std::size_t i = 0; i < from.elements.size(); ++i) to.elements[i] = static_cast<float>(from.elements[i]);
  };
  widen(in.query, floats.query), widen(in.key, floats.key), widen(in.value, floats.value);
  auto const expect_same = [&](auto const&... options) {
    auto const got = test::attend_linearly(in, causal{}, options..., full_precision{});
    auto const expected = test::attend_linearly(floats, causal{}, options...);
    EXPECT_TRUE(test::same_bits(got.state.elements, expected.state.elements));
    for (std::size_t i = 0; i < expected.output.elements.size(); ++i)
      ASSERT_EQ(got.output.elements[i], bfloat16(expected.output.elements[i])) << "at " << i;
  };
  floats.state = in.state;
  expect_same();
  expect_same(token_decay(in.token_decays.view()));
  // What is compared is another path, where there is a unit.
  bool const by_unit = engine::may_use_matrix_unit<bfloat16> && simd::uses_pair_products();
  EXPECT_EQ(test::same_bits(test::attend_linearly(in, causal{}).state.elements,
                            test::attend_linearly(in, causal{}, full_precision{}).state.elements),
            !by_unit);
}

TEST(ChunkPairs, HaveTheSameBitsForAnyThreads) {
  for (index_t const heads : {1, 3}) {
    inputs const in({2, heads, heads, heads, 900, 900, 40, 200}, 6);
    auto const expect_same = [&](auto const&... options) {
      auto const alone = test::attend_linearly(in, causal{}, options...);
      for (int const count : {2, 5}) {
        auto const got = test::attend_linearly(in, causal{}, options..., threads{count});
        EXPECT_TRUE(test::same_bits(got.output.elements, alone.output.elements));
        EXPECT_TRUE(test::same_bits(got.state.elements, alone.state.elements));
      }
    };
    expect_same();
    expect_same(token_decay(in.token_decays.view()));
    expect_same(rms_norm{});
  }
}

// What a query does not see has no influence, not even as NaN, and its bits are those without it; where floats are not
// finite, parts are not either.
TEST(ChunkPairs, KeepInfinitiesFromQueriesBeforeThem) {
  constexpr index_t tokens = 150, dimension = 40, columns = 60, at = 70;
  inputs const in({1, 1, 1, 1, tokens, tokens, dimension, columns}, 7);
  auto const decay = token_decay(in.token_decays.view());
  auto const plain = test::attend_linearly(in, causal{}, decay);
  auto const expect_where = [&](inputs const& hostile, auto const& influences) {
    auto const got = test::attend_linearly(hostile, causal{}, decay);
    auto const in_float = test::attend_linearly(hostile, causal{}, decay, full_precision{});
    for (index_t i = 0; i < tokens; ++i)
      for (index_t c = 0; c < columns; ++c) {
        float const x = static_cast<float>(got.output.view()(0, 0, i, c));
        ASSERT_EQ(std::isfinite(x), std::isfinite(static_cast<float>(in_float.output.view()(0, 0, i, c))));
        ASSERT_EQ(std::isfinite(x), !influences(i, c)) << i << ", " << c;
        if (influences(i, c)) continue;
        ASSERT_EQ(x, static_cast<float>(plain.output.view()(0, 0, i, c))) << i << ", " << c;
      }
    for (index_t f = 0; f < dimension; ++f)
      for (index_t c = 0; c < columns; ++c)
        ASSERT_EQ(std::isfinite(got.state.view()(0, 0, f, c)), std::isfinite(in_float.state.view()(0, 0, f, c)));
  };
  for (float const bad : {infinity<float>, -infinity<float>, std::nanf("")}) {
    auto hostile = in;
    hostile.value.view()(0, 0, at, 3) = bfloat16(bad);
    expect_where(hostile, [](index_t i, index_t c) { return i >= at && c == 3; });
    hostile = in;
    hostile.key.view()(0, 0, at, 3) = bfloat16(bad);
    expect_where(hostile, [](index_t i, index_t) { return i >= at; });
    hostile = in;
    hostile.query.view()(0, 0, at, 3) = bfloat16(bad);
    expect_where(hostile, [](index_t i, index_t) { return i == at; });
  }
}

}  // namespace
}  // namespace attend
