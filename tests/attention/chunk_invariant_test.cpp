// SPDX-License-Identifier: BSD-3-Clause
// chunk_invariant: a prompt has the same bits however it is cut into calls, down to single tokens, in every store; and
// whatever stands in values that a query does not see. Compiled for the processor at hand, and with an emulated matrix
// unit (tests/emulated_pairs).
#include <attend/cache/paged.hpp>
#include <attend/cache/rolling.hpp>
#include <attend/policy/feature/elu.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/normalizer/relu.hpp>
#include <attend/policy/normalizer/sinks.hpp>
#include <attend/policy/position/rotary.hpp>
#include <attend/policy/precision.hpp>
#include <attend/policy/score/softcap.hpp>

#include "support/cached_tokens.hpp"
#include "support/executors.hpp"
#include "support/expect_error.hpp"
#include "support/linear_problem.hpp"

namespace attend {
using namespace options;
using namespace linear;

namespace {

constexpr test::sizes prompt{.batches = 2,
                             .query_heads = 6,
                             .key_heads = 2,
                             .value_heads = 2,
                             .queries = 330,
                             .keys = 330,
                             .key_dimension = 20,
                             .value_dimension = 24};

/// All at once (or as much of it as the store takes), token by token, and in random pieces.
template <class Make, class T, class... Options>
void expect_same_bits(Make const& make, test::inputs<T> const& in, index_t most, Options const&... options) {
  auto const run = [&](std::function<index_t()> const& next, auto const&... more) {
    auto cache = make();
    return test::in_pieces(cache, in, next, chunk_invariant{}, options..., more...).elements;
  };
  auto const whole = run([&] { return most; });
  EXPECT_TRUE(test::same_bits(run([] { return 1; }), whole)) << "token by token";
  std::mt19937 engine(3);
  auto const random = [&] { return std::uniform_int_distribution<index_t>(1, std::min<index_t>(most, 120))(engine); };
  for (int trial = 0; trial < 3; ++trial) EXPECT_TRUE(test::same_bits(run(random), whole)) << "in random pieces";
  EXPECT_TRUE(test::same_bits(run(random, threads{3}), whole)) << "on threads";
}

// Sharp logits move the maximum often.
test::inputs<float> const& sharp() {
  static auto const in = test::random_inputs<float>(prompt, 1, 3);
  return in;
}

TEST(ChunkInvariant, InOnePiece) {
  auto const make = [] { return contiguous_cache<float>(test::shape_of(prompt), prompt.keys); };
  expect_same_bits(make, sharp(), prompt.keys);
  expect_same_bits(make, sharp(), prompt.keys, window{45, 0}, softcap{20});
}

TEST(ChunkInvariant, InPages) {
  expect_same_bits([] { return paged_cache<bfloat16>(test::shape_of(prompt), {.pages = 100, .page_tokens = 7}); },
                   sharp(), prompt.keys, sinks{1.0});
}

TEST(ChunkInvariant, InARing) {
  // What has left the ring is there for some cuts and not for others.
  expect_same_bits([] { return rolling_cache<float>(test::shape_of(prompt), streaming{5, 60}, 90); }, sharp(), 90);
}

TEST(ChunkInvariant, OfManyKeys) {
  // More than one part of the keys.
  test::sizes const s{.query_heads = 2,
                      .key_heads = 1,
                      .value_heads = 1,
                      .queries = 4500,
                      .keys = 4500,
                      .key_dimension = 8,
                      .value_dimension = 8};
  auto const in = test::random_inputs<float>(s, 2, 2);
  expect_same_bits([&] { return contiguous_cache<float>(test::shape_of(s), s.keys); }, in, s.keys);
}

// bfloat16, which a matrix unit multiplies. Its products are of whole groups of 32 keys.
test::inputs<bfloat16> const& short_numbers(index_t dimension) {
  static auto const make = [](index_t d) {
    test::sizes s = prompt;
    s.key_dimension = s.value_dimension = d;
    return test::random_inputs<bfloat16>(s, 4, 3);
  };
  static auto const in_place = make(32), copied = make(24);
  return dimension == 32 ? in_place : copied;
}

TEST(ChunkInvariant, OfPairs) {
  for (index_t const dimension : {24, 32}) {
    SCOPED_TRACE(testing::Message() << "dimension " << dimension);
    auto const& in = short_numbers(dimension);
    auto const make = [&] { return contiguous_cache<bfloat16>(test::shape_of(in.size), prompt.keys); };
    expect_same_bits(make, in, prompt.keys);
    expect_same_bits(make, in, prompt.keys, full_precision{});
    expect_same_bits(make, in, prompt.keys, relu_weights{relu_scaling::count});
    // Blocks begin anywhere within a group.
    expect_same_bits(make, in, prompt.keys, window{45, 0});
    expect_same_bits(make, in, prompt.keys, window{3, 0}, softcap{20});
  }
}

TEST(ChunkInvariant, OfRotatedPairs) {
  auto const& in = short_numbers(32);
  expect_same_bits([&] { return contiguous_cache<bfloat16>(test::shape_of(in.size), prompt.keys); }, in, prompt.keys,
                   rotary{rotary_frequencies(32)});
}

TEST(ChunkInvariant, OfPairsInPages) {
  auto const& in = short_numbers(32);
  expect_same_bits([&] { return paged_cache<bfloat16>(test::shape_of(in.size), {.pages = 100, .page_tokens = 7}); }, in,
                   prompt.keys, sinks{1.0});
}

TEST(ChunkInvariant, OfPairsInARing) {
  for (index_t const dimension : {24, 32}) {
    auto const& in = short_numbers(dimension);
    expect_same_bits([&] { return rolling_cache<bfloat16>(test::shape_of(in.size), streaming{5, 60}, 90); }, in, 90);
  }
}

TEST(ChunkInvariant, OfManyPairs) {
  // More than one part of the keys.
  test::sizes const s{.query_heads = 2,
                      .key_heads = 1,
                      .value_heads = 1,
                      .queries = 2500,
                      .keys = 2500,
                      .key_dimension = 32,
                      .value_dimension = 16};
  auto const in = test::random_inputs<bfloat16>(s, 5, 2);
  expect_same_bits([&] { return contiguous_cache<bfloat16>(test::shape_of(s), s.keys); }, in, s.keys);
}

// Logits of some rows are rounded before their maximum is taken away, since they are far from zero, and those of the
// rows beside them are not. A scale of 0.3 rounds.
TEST(ChunkInvariant, BesideRowsFarFromZero) {
  auto in = short_numbers(32);
  for (index_t batch = 0; batch < in.size.batches; ++batch)
    for (index_t head = 0; head < in.size.query_heads; ++head)
      for (index_t query = head; query < in.size.queries; query += 5)
        for (index_t c = 0; c < 32; ++c) {
          bfloat16& x = in.query.view()(batch, head, query, c);
          x = static_cast<bfloat16>(static_cast<float>(x) * 0x1p22f);
        }
  expect_same_bits([&] { return contiguous_cache<bfloat16>(test::shape_of(in.size), prompt.keys); }, in, prompt.keys,
                   scale(0.3));
}

// Two values leave a sum below the smallest normal number, which becomes -0; and keys that a row does not see, in a
// block that the rows beside it need, add 0. Weights are 2^-16 (normalizer/softmax.hpp).
template <class T>
void expect_one_zero() {
  test::sizes const s{.query_heads = 1,
                      .key_heads = 1,
                      .value_heads = 1,
                      .queries = 300,
                      .keys = 300,
                      .key_dimension = 32,
                      .value_dimension = 32};
  auto in = test::random_inputs<T>(s, 6);
  for (auto* tensor : {&in.query, &in.value}) std::fill(tensor->elements.begin(), tensor->elements.end(), T(0));
  in.value.view()(0, 0, 0, 0) = T(1.5f * 0x1p-110f);
  in.value.view()(0, 0, 130, 0) = T(-1.75f * 0x1p-110f);
  expect_same_bits([&] { return contiguous_cache<T>(test::shape_of(s), s.keys); }, in, s.keys);
}
TEST(ChunkInvariant, OfZeros) {
  expect_one_zero<float>();
  expect_one_zero<bfloat16>();
}

TEST(ChunkInvariant, WhateverIsHidden) {
  // A value that the last query alone sees is no number: the other rows have the bits that they have without it.
  auto in = sharp();
  auto const run = [&] { return test::attend_to(in, causal{}, chunk_invariant{}).output; };
  auto const before = run();
  for (index_t batch = 0; batch < 2; ++batch)
    in.value.view()(batch, 0, prompt.keys - 1, 3) = std::numeric_limits<float>::quiet_NaN();
  auto const after = run();
  for (index_t batch = 0; batch < 2; ++batch)
    for (index_t head = 0; head < prompt.query_heads; ++head)
      EXPECT_EQ(std::memcmp(&before.view()(batch, head, 0, 0), &after.view()(batch, head, 0, 0),
                            sizeof(float) * static_cast<std::size_t>((prompt.queries - 1) * prompt.value_dimension)),
                0);
}

TEST(ChunkInvariant, FollowsTheDefinition) {
  reference::options with;
  with.visible = reference::causal_bottom_right();
  EXPECT_TRUE(test::agrees(sharp(), test::attend_to(sharp(), causal{}, chunk_invariant{}), with));
  with.visible = reference::sliding_window(45, 0);
  EXPECT_TRUE(test::agrees(sharp(), test::attend_to(sharp(), window{45, 0}, chunk_invariant{}), with));
  for (index_t const dimension : {24, 32}) {
    auto const& in = short_numbers(dimension);
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, window{45, 0}, chunk_invariant{}), with, 1, 10)) << dimension;
  }
}

// exp(-0.69921875) is rounded to 0.49609375 for a matrix unit, which the first value takes away again: so it is used,
// for a single query as for many.
TEST(ChunkInvariant, RoundsWeightsUnlessTold) {
  for (index_t const queries : {1, 64}) {
    auto in = test::random_inputs<bfloat16>({1, 1, 1, 1, queries, 2, 32, 32}, 1);
    for (auto* tensor : {&in.query, &in.key, &in.value})
      std::fill(tensor->elements.begin(), tensor->elements.end(), bfloat16(0));
    for (index_t query = 0; query < queries; ++query) in.query.view()(0, 0, query, 0) = bfloat16(1);
    in.key.view()(0, 0, 1, 0) = bfloat16(-0.69921875f);
    in.value.view()(0, 0, 0, 0) = bfloat16(-0.49609375f);
    in.value.view()(0, 0, 1, 0) = bfloat16(1);
    auto const output = [&](auto const&... options) {
      return static_cast<float>(
          test::attend_to(in, scale(1), chunk_invariant{}, options...).output.view()(0, 0, queries - 1, 0));
    };
    EXPECT_NE(output(full_precision{}), 0);
    if (simd::uses_pair_products())
      EXPECT_EQ(output(), 0);
    else
      EXPECT_EQ(output(), output(full_precision{}));
  }
}

/// Linear attention: tokens [first, first + count) of all that a call is given.
template <class T, int Axes>
tensor_view<T, Axes> tokens_of(tensor_view<T, Axes> const& all, index_t first, index_t count) {
  auto extents = all.extents();
  extents[2] = count;
  return {all.data() + first * all.stride(2), extents, all.strides()};
}

/// with(first, count, call) calls with the options for some tokens.
template <class With>
void expect_same_states(test::linear_inputs<float> const& in, bool sums, With const& with) {
  auto const& s = in.size;
  auto const run = [&](std::function<index_t()> const& next) {
    auto output = test::filled<float, 4>({s.batches, s.output_heads(), s.queries, s.value_dimension}, 7);
    auto state = in.state;
    auto sum = in.key_sum;
    for (index_t first = 0, count; first < s.keys; first += count) {
      count = std::min(next(), s.keys - first);
      with(first, count, [&](auto const&... options) {
        auto const call = [&](auto const&... states) {
          linear_attention(tokens_of(in.query.view(), first, count), tokens_of(in.key.view(), first, count),
                           tokens_of(in.value.view(), first, count), tokens_of(output.view(), first, count), causal{},
                           chunk_invariant{}, options..., states...);
        };
        if (sums)
          call(initial_state(state.view(), sum.view()), final_state(state.view(), sum.view()));
        else
          call(initial_state(state.view()), final_state(state.view()));
      });
    }
    output.elements.insert(output.elements.end(), state.elements.begin(), state.elements.end());
    return output.elements;
  };
  auto const whole = run([&] { return s.keys; });
  EXPECT_TRUE(test::same_bits(run([] { return 1; }), whole));
  index_t piece = 0;
  EXPECT_TRUE(test::same_bits(run([&] { return ++piece; }), whole));
}

TEST(ChunkInvariant, OfCarriedStates) {
  test::linear_inputs<float> const in({2, 4, 2, 2, 70, 70, 13, 37}, 5);
  auto const some = [](auto const& tensor, index_t first, index_t count) {
    return tokens_of(tensor.view(), first, count);
  };
  expect_same_states(in, false, [](index_t, index_t, auto const& call) { call(); });
  expect_same_states(in, true, [](index_t, index_t, auto const& call) { call(elu_features{}, key_sum{}); });
  expect_same_states(in, false, [&](index_t first, index_t count, auto const& call) {
    call(feature_decay(some(in.key_decays, first, count)), rms_norm{});
  });
  expect_same_states(in, false, [&](index_t first, index_t count, auto const& call) {
    call(delta_rule(some(in.rates, first, count)), token_decay(some(in.token_decays, first, count)));
  });
}

TEST(ChunkInvariant, OfCarriedStatesNeedsACausalMask) {
  test::linear_inputs<float> const in({1, 1, 1, 1, 3, 3, 4, 4}, 5);
  auto output = test::filled<float, 4>({1, 1, 3, 4}, 7);
  test::expect_error("chunk_invariant: expected a causal mask, got none: queries wait for the last key", [&] {
    linear_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), chunk_invariant{});
  });
}

}  // namespace
}  // namespace attend
