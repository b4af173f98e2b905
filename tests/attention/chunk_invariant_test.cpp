// SPDX-License-Identifier: BSD-3-Clause
// chunk_invariant: a prompt has the same bits however it is cut into calls, down to single tokens, in every store; and
// whatever stands in values that a query does not see.
#include <attend/cache/paged.hpp>
#include <attend/cache/rolling.hpp>
#include <attend/policy/feature/elu.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/normalizer/sinks.hpp>
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
template <class Make, class... Options>
void expect_same_bits(Make const& make, test::inputs<float> const& in, index_t most, Options const&... options) {
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
