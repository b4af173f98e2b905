// SPDX-License-Identifier: BSD-3-Clause
// States of linear attention: a sequence in any number of pieces, a state updated where it stands, threads, and what
// hidden tokens must not touch.
#include <unsupported/Eigen/CXX11/ThreadPool>

#include <attend/policy/feature/elu.hpp>

#include "support/linear_problem.hpp"

namespace attend {
using namespace linear;
using namespace extend;

namespace {

using test::linear_inputs;
using test::linear_sizes;

constexpr linear_sizes few_heads{1, 2, 1, 1, 200, 200, 24, 70};

template <class T, int Rank>
tensor_view<T const, Rank> tokens_of(test::tensor<T, Rank> const& t, index_t first, index_t count) {
  auto const v = t.view();
  auto extents = v.extents();
  extents[2] = count;
  return {v.data() + first * v.stride(2), extents, v.strides()};
}

/// One state through pieces of the lengths given, updated in place.
template <class Call>
void expect_pieces_agree(linear_inputs<float> const& in, test::linear_outputs<float> const& whole,
                         std::vector<index_t> const& pieces, Call&& call) {
  auto state = in.state;
  auto sum = in.key_sum;
  auto output = test::filled<float, 4>(whole.output.extents, 7);
  index_t first = 0;
  for (index_t count : pieces) {
    tensor_view<float, 4> const all = output.view();
    auto extents = all.extents();
    extents[2] = count;
    call(first, count, tensor_view<float, 4>(all.data() + first * all.stride(2), extents, all.strides()), state.view(),
         sum.view());
    first += count;
  }
  ASSERT_EQ(first, in.size.keys);
  std::vector<double> const expected(whole.output.elements.begin(), whole.output.elements.end());
  std::vector<double> const last(whole.state.elements.begin(), whole.state.elements.end());
  EXPECT_TRUE(test::near(output.elements, expected, test::tolerance<float>(test::largest_of(expected))));
  EXPECT_TRUE(test::near(state.elements, last, test::tolerance<float>(test::largest_of(last))));
}

TEST(LinearState, CarriesOverAnySplit) {
  linear_inputs<float> const in(few_heads, 1);
  auto const gated =
      test::attend_linearly(in, causal{}, delta_rule(in.rates.view()), token_decay(in.token_decays.view()));
  auto const summed =
      test::attend_linearly(in, causal{}, elu_features{}, key_sum{}, feature_decay(in.key_decays.view()));
  std::vector<index_t> const ones(200, 1);
  for (std::vector<index_t> const& pieces :
       {std::vector<index_t>{200}, {1, 199}, {64, 64, 72}, {100, 0, 1, 99}, ones}) {
    expect_pieces_agree(in, gated, pieces, [&](index_t first, index_t count, auto output, auto state, auto) {
      linear_attention(tokens_of(in.query, first, count), tokens_of(in.key, first, count),
                       tokens_of(in.value, first, count), output, causal{},
                       delta_rule(tokens_of(in.rates, first, count)),
                       token_decay(tokens_of(in.token_decays, first, count)), initial_state(state), final_state(state));
    });
    expect_pieces_agree(in, summed, pieces, [&](index_t first, index_t count, auto output, auto state, auto sum) {
      linear_attention(tokens_of(in.query, first, count), tokens_of(in.key, first, count),
                       tokens_of(in.value, first, count), output, causal{}, elu_features{}, key_sum{},
                       feature_decay(tokens_of(in.key_decays, first, count)), initial_state(state, sum),
                       final_state(state, sum));
    });
  }
}

// The keys first, then one query after all of them: what the full sum is.
TEST(LinearState, OfAllKeysIsWhatTheFullSumReads) {
  linear_inputs<float> const in(few_heads, 2);
  // The two would choose chunks of different lengths, whose sums are rounded differently.
  auto const full_sum = test::attend_linearly(in, chunk_length(64));
  auto const chunked = test::attend_linearly(in, causal{}, chunk_length(64));
  EXPECT_EQ(full_sum.state.elements, chunked.state.elements);
  auto const& elements = full_sum.output.elements;
  double const allowed =
      test::tolerance<float>(test::largest_of(std::vector<double>(elements.begin(), elements.end())));
  for (index_t h = 0; h < 2; ++h)
    for (index_t c = 0; c < 70; ++c)
      EXPECT_NEAR(full_sum.output.view()(0, h, 199, c), chunked.output.view()(0, h, 199, c), allowed);
}

TEST(LinearState, StaysAsItIsWithoutTokens) {
  linear_inputs<float> const in({1, 1, 1, 1, 0, 0, 5, 9}, 3);
  auto const out = test::attend_linearly(in, causal{});
  EXPECT_EQ(out.state.elements, in.state.elements);
}

template <class... Options>
void expect_same_bits(linear_inputs<float> const& in, Options const&... options) {
  auto const lone = test::attend_linearly(in, options...);
  auto const same = [](auto const& a, auto const& b) {
    return std::memcmp(a.elements.data(), b.elements.data(), a.elements.size() * sizeof(float)) == 0;
  };
  for (int run = 0; run < 3; ++run)
    for (int count : {0, 1, 2, 3, 5}) {
      auto const several = test::attend_linearly(in, options..., threads{count});
      EXPECT_TRUE(same(several.output, lone.output)) << count;
      EXPECT_TRUE(same(several.state, lone.state)) << count;
    }
  Eigen::ThreadPool pool(3);
  auto pooled = test::filled<float, 4>(lone.output.extents, 7);
  linear_attention(in.query.view(), in.key.view(), in.value.view(), pooled.view(), options..., pool,
                   initial_state(in.state.view()));
  EXPECT_TRUE(same(pooled, lone.output));
}

// Threads share the columns of heads that they do not divide; others are theirs alone.
TEST(LinearState, HasTheSameBitsForAnyNumberOfThreads) {
  for (linear_sizes s : {linear_sizes{1, 1, 1, 1, 500, 500, 64, 150}, linear_sizes{2, 6, 3, 3, 150, 150, 40, 64}}) {
    linear_inputs<float> const in(s, 4);
    expect_same_bits(in, causal{});
    expect_same_bits(in, causal{}, head_decay(in.head_decays.view()));
    expect_same_bits(in, causal{}, feature_decay(in.key_decays.view()));
    expect_same_bits(in, causal{}, delta_rule(in.rates.view()), token_decay(in.token_decays.view()));
    expect_same_bits(in, causal{}, rms_norm{});
  }
}

// A later key or value has no influence on an earlier output, not even as NaN.
TEST(LinearState, IsNotReadBeforeItIsWritten) {
  linear_inputs<float> const in({1, 1, 1, 1, 150, 150, 16, 20}, 5);
  for (index_t bad : {5, 21, 64, 100, 149}) {
    auto poisoned = in;
    for (index_t c = 0; c < 16; ++c) poisoned.key.view()(0, 0, bad, c) = std::numeric_limits<float>::quiet_NaN();
    for (index_t c = 0; c < 20; ++c) poisoned.value.view()(0, 0, bad, c) = infinity<float>;
    auto const expect_earlier = [&](auto const&... options) {
      auto const clean = test::attend_linearly(in, causal{}, options...);
      auto const dirty = test::attend_linearly(poisoned, causal{}, options...);
      EXPECT_EQ(std::memcmp(clean.output.elements.data(), dirty.output.elements.data(),
                            static_cast<std::size_t>(bad) * 20 * sizeof(float)),
                0)
          << bad;
      EXPECT_FALSE(std::isfinite(dirty.output.view()(0, 0, bad, 0)));
    };
    expect_earlier();
    expect_earlier(feature_decay(in.key_decays.view()));
    expect_earlier(delta_rule(in.rates.view()), token_decay(in.token_decays.view()));
  }
}

// A decay of 0 forgets all that was, and what it forgets costs the rest no digit.
TEST(LinearState, IsForgottenWhereADecayIsZero) {
  linear_inputs<float> in({1, 1, 1, 1, 150, 150, 16, 20}, 6);
  for (index_t t : {0, 3, 40, 41, 64, 149}) {
    in.token_decays.view()(0, 0, t) = -infinity<float>;
    for (index_t f = 0; f < 16; f += 2) in.key_decays.view()(0, 0, t, f) = -infinity<float>;
  }
  for (index_t chunk : {1, 16, 64, 150}) {
    reference::linear_options with;
    with.log_decay = in.token_logs();
    EXPECT_TRUE(test::agrees(
        in, test::attend_linearly(in, causal{}, token_decay(in.token_decays.view()), chunk_length(chunk)), with));
    with.log_decay = in.key_logs();
    EXPECT_TRUE(test::agrees(
        in, test::attend_linearly(in, causal{}, feature_decay(in.key_decays.view()), chunk_length(chunk)), with));
  }
}

}  // namespace
}  // namespace attend
