// SPDX-License-Identifier: BSD-3-Clause
// A few queries of bfloat16, whose rows share keys, in dimensions that a matrix unit takes: random problems, groups of
// all sizes, stores of all kinds, hidden NaN. Compiled twice: for the processor at hand, and with an emulated matrix
// unit (tests/emulated_pairs), so that the unit's path is tested on every machine.
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/cache/paged.hpp>
#include <attend/cache/rolling.hpp>
#include <attend/engine/softmax/split_pairs.hpp>
#include <attend/policy/normalizer/relu.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/normalizer/sinks.hpp>
#include <attend/policy/precision.hpp>

#include "engine/random_combinations.hpp"
#include "support/cached_tokens.hpp"

namespace attend {
using namespace options;
using namespace caches;

namespace {

bool uses_unit() { return simd::pair_unit::order.plain() && simd::uses_pair_products(); }

/// Output and log-sum-exp of the split engine.
template <class T, class... Options>
test::outputs<T> decode(test::inputs<T> const& in, Options const&... options) {
  test::sizes const& s = in.size;
  test::outputs<T> all{test::filled<T, 4>({s.batches, s.query_heads, s.queries, s.value_dimension}, T(7)),
                       test::filled<accumulation_t<T>, 3>({s.batches, s.query_heads, s.queries}, 7),
                       {}};
  decode_attention(in.query.view(), in.key.view(), in.value.view(), all.output.view(),
                   log_sum_exp(all.log_sum_exp.view()), options...);
  return all;
}

TEST(SplitPairs, AgreesOnRandomProblems) {
  test::expect_random_combinations<bfloat16, true>(5000, 60, softmax{}, [](auto&, auto const&) {}, simd::pair_depth);
}

TEST(SplitPairs, AgreesOnRandomProblemsWithSinks) {
  test::expect_random_combinations<bfloat16, true>(
      6000, 20, sinks(1.5), [](reference::options& with, auto const&) { with.sink = [](index_t) { return 1.5; }; },
      simd::pair_depth);
}

TEST(SplitPairs, AgreesWithoutAMaximum) {
  test::expect_random_combinations<bfloat16, true>(
      7000, 20, sigmoid_weights{},
      [](reference::options& with, test::placed_sequence const& s) {
        with.settings = reference::normalizer::sigmoid;
        with.sigmoid_bias = -std::log(std::max(1.0, static_cast<double>(s.keys)));
      },
      simd::pair_depth);
}

// Keys that nobody sees, and their values, are NaN and infinite.
TEST(SplitPairs, IgnoresPoison) {
  for (unsigned seed = 8000; seed < 8040; ++seed) {
    test::random_problem<bfloat16> problem(seed, simd::pair_depth);
    problem.hidden_is_poison = true;
    EXPECT_TRUE(problem.agrees_with<true>(softmax{}, [](auto&, auto const&) {})) << "seed " << seed;
  }
}

// Up to four rows multiply-adds serve, up to sixteen one vector of rows.
TEST(SplitPairs, AgreesForGroupsOfAnySize) {
  for (index_t const group : {3, 4, 5, 8, 16, 17, 128})
    for (index_t const keys : {1, 15, 16, 33, 64, 65, 300}) {
      auto const in = test::random_inputs<bfloat16>({2, 2 * group, 2, 2, 1, keys, 64, 96}, 7);
      EXPECT_TRUE(test::agrees(in, decode(in), {})) << "groups of " << group << ", " << keys << " keys";
    }
  for (index_t const group : {2, 5, 8}) {
    auto const in = test::random_inputs<bfloat16>({1, group, 1, 1, 4, 200, 96, 32}, 8);
    reference::options with;
    with.visible = [](reference::place const& at) { return at.key <= at.position(); };
    EXPECT_TRUE(test::agrees(in, decode(in, causal{}), with)) << "groups of " << group;
    with.visible = [](reference::place const& at) { return at.key <= at.position() && at.key > at.position() - 37; };
    EXPECT_TRUE(test::agrees(in, decode(in, window{36, 0}), with)) << "groups of " << group;
  }
}

// Logits grow with the keys, so that maxima rise in each block.
TEST(SplitPairs, RaisesMaxima) {
  auto in = test::random_inputs<bfloat16>({1, 8, 1, 1, 1, 400, 32, 32}, 9);
  for (index_t head = 0; head < 8; ++head) in.query.view()(0, head, 0, 0) = bfloat16(1.0f);
  for (index_t key = 0; key < 400; ++key) in.key.view()(0, 0, key, 0) = bfloat16(static_cast<float>(key) / 4);
  EXPECT_TRUE(test::agrees(
      in, decode(in, scale(1)),
      [] {
        reference::options with;
        with.scale = 1;
        return with;
      }(),
      1, 100));
}

// Large calls have several parts for each head, which any thread may run; a sequence is cut by its own shape alone.
TEST(SplitPairs, HasTheSameBitsForAnyThreadsAndBatch) {
  auto const in = test::random_inputs<bfloat16>({2, 8, 1, 1, 1, 6000, 128, 128}, 10);
  auto const alone = decode(in);
  for (int const count : {2, 5}) EXPECT_EQ(decode(in, threads{count}).output.elements, alone.output.elements);
  test::inputs<bfloat16> first = in;
  first.size.batches = 1;
  for (auto* tensor : {&first.query, &first.key, &first.value}) {
    tensor->extents[0] = 1;
    tensor->elements.resize(tensor->elements.size() / 2);
  }
  auto const one = decode(first).output.elements;
  EXPECT_TRUE(std::equal(one.begin(), one.end(), alone.output.elements.begin()));
}

// Rows that lie apart are copied before the unit reads them.
TEST(SplitPairs, ReadsPagesAndRings) {
  reference::options with;
  with.visible = [](reference::place const& at) { return at.key <= at.position(); };
  for (index_t const page : {7, 16, 64}) {
    SCOPED_TRACE(testing::Message() << "pages of " << page);
    auto const make = [&] { return paged_cache<bfloat16>({1, 1, 64, 64}, {.pages = 30, .page_tokens = page}); };
    test::expect_any_cut<bfloat16>(make, {1, 8, 1, 1, 130, 130, 64, 64}, 11, with);
  }
  with.visible = [](reference::place const& at) {
    return at.key <= at.position() && (at.key < 3 || at.key > at.position() - 40);
  };
  auto const make = [] { return rolling_cache<bfloat16>({1, 1, 64, 64}, {3, 40}, 8); };
  test::expect_any_cut<bfloat16>(make, {1, 8, 1, 1, 130, 130, 64, 64}, 12, with);
}

// Values of hidden keys may be anything, and change no bit of the queries that do not see them.
TEST(SplitPairs, IgnoresHiddenNaN) {
  index_t const tokens = 150;
  auto in = test::random_inputs<bfloat16>({1, 8, 1, 1, 3, tokens, 32, 64}, 13);
  auto const clean = decode(in, causal{});
  for (index_t c = 0; c < 64; c += 5)
    in.value.view()(0, 0, tokens - 1, c) = bfloat16(std::numeric_limits<float>::quiet_NaN());
  in.value.view()(0, 0, tokens - 1, 1) = bfloat16(std::numeric_limits<float>::infinity());
  auto const dirty = decode(in, causal{});
  for (index_t head = 0; head < 8; ++head) {
    for (index_t query = 0; query < 2; ++query)
      for (index_t c = 0; c < 64; ++c)
        ASSERT_EQ(dirty.output.view()(0, head, query, c), clean.output.view()(0, head, query, c));
    for (index_t c = 0; c < 64; ++c) {
      float const x = static_cast<float>(dirty.output.view()(0, head, 2, c));
      if (c % 5 == 0)
        EXPECT_TRUE(std::isnan(x));
      else if (c == 1)
        EXPECT_EQ(x, std::numeric_limits<float>::infinity());
      else
        EXPECT_EQ(dirty.output.view()(0, head, 2, c), clean.output.view()(0, head, 2, c));
    }
  }
}

// exp(-0.69921875) is rounded to 0.49609375, which the first value takes away again: nothing is left. Four rows, and
// queries of float, lose nothing.
TEST(SplitPairs, RoundsWeightsUnlessTold) {
  auto const output = [&]<class T>(T, index_t heads, auto const&... options) {
    auto in = test::random_inputs<bfloat16>({1, heads, 1, 1, 1, 2, 32, 32}, 1);
    for (auto* tensor : {&in.query, &in.key, &in.value})
      std::fill(tensor->elements.begin(), tensor->elements.end(), bfloat16(0));
    in.key.view()(0, 0, 1, 0) = bfloat16(-0.69921875f);
    in.value.view()(0, 0, 0, 0) = bfloat16(-0.49609375f);
    in.value.view()(0, 0, 1, 0) = bfloat16(1);
    contiguous_cache<bfloat16> cache({1, 1, 32, 32}, 2);
    cache.append(in.key.view(), in.value.view());
    auto query = test::filled<T, 4>({1, heads, 1, 32}, T(0)), got = query;
    for (index_t head = 0; head < heads; ++head) query.view()(0, head, 0, 0) = T(1);
    decode_attention(query.view(), cache, got.view(), scale(1), options...);
    return static_cast<double>(static_cast<float>(got.view()(0, heads - 1, 0, 0)));
  };
  double const left = (std::exp(-0.69921875) - 0.49609375) / (1 + std::exp(-0.69921875)), rounding = 0x1p-8 * left;
  EXPECT_NEAR(output(bfloat16(), 8, full_precision{}), left, rounding);
  EXPECT_NEAR(output(bfloat16(), 4), left, rounding);
  EXPECT_NEAR(output(float(), 8), left, 200 * 0x1p-24);
  if (uses_unit())
    EXPECT_EQ(output(bfloat16(), 8), 0);
  else
    EXPECT_NEAR(output(bfloat16(), 8), left, rounding);
}

// With the unit an output differs from that of float by at most the roundings of weights, 2^-8 sum_j p_j |v_j|, and of
// the two outputs themselves.
TEST(SplitPairs, DiffersByTheRoundingOfWeights) {
  auto const in = test::random_inputs<bfloat16>({1, 16, 1, 1, 1, 500, 64, 64}, 14);
  auto magnitudes = in;
  for (bfloat16& x : magnitudes.value.elements) x = static_cast<bfloat16>(std::abs(static_cast<float>(x)));
  auto const bound = reference::softmax_attention<bfloat16>(magnitudes.query.view(), magnitudes.key.view(),
                                                            magnitudes.value.view(), {})
                         .output;
  auto const unit = decode(in).output.elements, exact = decode(in, full_precision{}).output.elements;
  for (std::size_t i = 0; i < unit.size(); ++i) {
    double const a = static_cast<double>(unit[i]), b = static_cast<double>(exact[i]);
    EXPECT_NEAR(a, b, 0x1p-8 * (bound[i] + std::abs(a) + std::abs(b)) + 200 * 0x1p-24 * bound[i]);
  }
}

}  // namespace
}  // namespace attend
