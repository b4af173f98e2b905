// SPDX-License-Identifier: BSD-3-Clause
// bfloat16 where a matrix unit may be used: random problems, several blocks of keys, hidden NaN. The weights
// that it rounds, full_precision{} does not. Compiled for the processor at hand, with an emulated matrix unit
// (tests/emulated_pairs), so that the unit's path is tested on every machine, and with AVX512-BF16 or an emulated
// BFMMLA in its place.
#include <attend/attention/cached/cached_attention.hpp>
#include <attend/cache/paged.hpp>
#include <attend/policy/normalizer/sigmoid.hpp>
#include <attend/policy/pair_gain.hpp>
#include <attend/policy/position/rotary.hpp>
#include <attend/policy/precision.hpp>
#include <attend/policy/weight_function.hpp>

#include "engine/random_combinations.hpp"
#include "simd/end_of_memory.hpp"
#include "support/cached_tokens.hpp"

namespace attend {
using namespace options;
using namespace caches;
using namespace extend;

namespace {

TEST(PairPipeline, AgreesOnRandomProblems) {
  for (index_t const unit : {index_t{1}, simd::pair_depth})
    test::expect_random_combinations<bfloat16>(5000, 60, softmax{}, [](auto&, auto const&) {}, unit);
}

TEST(PairPipeline, AgreesWithoutAMaximum) {
  test::expect_random_combinations<bfloat16>(
      6000, 20, sigmoid_weights{},
      [](reference::options& with, test::placed_sequence const& s) {
        with.settings = reference::normalizer::sigmoid;
        with.sigmoid_bias = -std::log(std::max(1.0, static_cast<double>(s.keys)));
      },
      simd::pair_depth);
}

TEST(PairPipeline, AgreesOverManyBlocks) {
  for (index_t const keys : {15, 16, 129, 300})
    for (index_t const dimension : {7, 32, 40, 64, 72, 80, 128}) {
      auto const in = test::random_inputs<bfloat16>({1, 4, 2, 2, keys, keys, dimension, dimension}, 7);
      EXPECT_TRUE(test::agrees(in, test::attend_to(in), {})) << keys << " keys, dimension " << dimension;
      reference::options with;
      with.visible = [](reference::place const& at) { return at.key <= at.position(); };
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, causal{}), with)) << keys << " keys, dimension " << dimension;
      with.visible = [](reference::place const& at) { return at.key <= at.position() && at.key > at.position() - 37; };
      EXPECT_TRUE(test::agrees(in, test::attend_to(in, window{36, 0}), with)) << keys << " keys";
    }
}

// Three tiles are in the pipeline at once; one or two tiles empty it for each block, and a last tile may have fewer
// vectors than the others. A task has several tiles only where there are many: with eight heads, from 192 queries
// on.
TEST(PairPipeline, AgreesForAnyNumberOfTiles) {
  for (index_t const queries : {40, 200, 300}) {
    auto const in = test::random_inputs<bfloat16>({1, 8, 1, 1, queries, 300, 32, 48}, 11);
    EXPECT_TRUE(test::agrees(in, test::attend_to(in), {})) << queries << " queries";
    reference::options with;
    with.visible = [](reference::place const& at) { return at.key <= at.position(); };
    EXPECT_TRUE(test::agrees(in, test::attend_to(in, causal{}), with)) << queries << " queries";
  }
}

// Of some queries, each of two masks shows every other key, and both together show none: only the tile finds that out,
// while the pipeline holds the tiles before it.
TEST(PairPipeline, SkipsTilesThatSeeNothing) {
  auto const in = test::random_inputs<bfloat16>({1, 8, 1, 1, 400, 400, 32, 48}, 12);
  auto const shows = [](index_t parity) {
    return mask([parity](auto query, auto key) { return query / 12 % 2 == 0 || key % 2 == parity; });
  };
  reference::options with;
  with.visible = [](reference::place const& at) { return at.position() / 12 % 2 == 0; };
  EXPECT_TRUE(test::agrees(in, test::attend_to(in, shows(0) & shows(1)), with));
}

/// sum_j f(p_ij, i, j) v_j over the keys that a query sees.
std::vector<double> sums_of_weights(test::inputs<bfloat16> const& in, reference::options const& with,
                                    std::function<double(double, index_t, index_t)> const& f) {
  test::sizes const& s = in.size;
  auto const softmax = reference::softmax_attention<bfloat16>(in.query.view(), in.key.view(), in.value.view(), with);
  std::vector<double> sums;
  for (index_t h = 0; h < s.query_heads; ++h)
    for (index_t i = 0; i < s.queries; ++i)
      for (index_t c = 0; c < s.value_dimension; ++c) {
        double sum = 0;
        for (index_t j = 0; j < s.keys; ++j)
          if (with.visible({0, h, i, j, s.queries, s.keys}))
            sum += f(softmax.weights[static_cast<std::size_t>((h * s.queries + i) * s.keys + j)], i, j) *
                   static_cast<double>(in.value.view()(0, h * s.value_heads / s.query_heads, j, c));
        sums.push_back(sum);
      }
  return sums;
}

// The window begins and ends within a group of keys that is multiplied as a whole.
TEST(PairPipeline, MultipliesWeightsByGains) {
  for (index_t const dimension : {32, 40}) {
    auto const in = test::random_inputs<bfloat16>({1, 4, 2, 2, 150, 333, dimension, dimension}, 13);
    reference::options with;
    with.visible = [](reference::place const& at) { return at.key <= at.position() && at.key > at.position() - 77; };
    auto out = test::filled<bfloat16, 4>({1, 4, 150, dimension}, bfloat16(7));
    auto const call = [&](auto const& gain) {
      softmax_attention(in.query.view(), in.key.view(), in.value.view(), out.view(), window{76, 0}, gain);
    };
    // Of magnitudes that sum to 2, each weight is within 2^-8 of itself.
    auto const agrees = [&](std::vector<double> const& expected) {
      return test::near(out.elements, expected,
                        test::tolerance<bfloat16>(2 * test::largest_magnitude(in.value.elements)));
    };
    call(weight_function([](auto const& p, auto const&) { return 0.5f * p + 0.01f; }));
    EXPECT_TRUE(agrees(sums_of_weights(in, with, [](double p, index_t, index_t) { return 0.5 * p + 0.01; })));

    auto centres = test::filled<float, 1>({150}, 0);
    for (index_t i = 0; i < 150; ++i) centres.elements[static_cast<std::size_t>(i)] = static_cast<float>(i + 150);
    call(gaussian_gain(centres.view(), 20.));
    EXPECT_TRUE(agrees(sums_of_weights(in, with, [](double p, index_t i, index_t j) {
      double const distance = static_cast<double>(j - i - 150);
      return p * std::exp(-distance * distance / 800);
    })));
  }
}

TEST(PairPipeline, HasTheSameBitsForAnyThreads) {
  auto const in = test::random_inputs<bfloat16>({2, 4, 2, 2, 200, 300, 64, 96}, 8);
  auto const alone = test::attend_to(in, causal{});
  for (int const count : {2, 5})
    EXPECT_EQ(test::attend_to(in, causal{}, threads{count}).output.elements, alone.output.elements);
}

// Logits of 2^33 are rounded by 512, of which a weight is to know nothing, whether they are above 0 or below.
TEST(PairPipeline, WeighsLogitsFarFromZero) {
  constexpr index_t dimension = 96;
  auto in = test::random_inputs<bfloat16>({1, 2, 2, 2, 64, 64, dimension, dimension}, 14);
  for (bfloat16& v : in.value.elements) v = bfloat16(1);
  for (float const magnitude : {1e3f, 1e5f, 1e6f, 1e10f})
    for (float const sign : {1.f, -1.f}) {
      auto far = in;
      for (bfloat16& x : far.query.elements) x = bfloat16(sign * magnitude * (1 + std::abs(static_cast<float>(x))));
      for (bfloat16& x : far.key.elements) x = bfloat16(magnitude * (1 + std::abs(static_cast<float>(x))));
      auto const out = test::attend_to(far, causal{});
      for (bfloat16 const o : out.output.elements) ASSERT_EQ(static_cast<float>(o), 1) << sign * magnitude;
    }
}

TEST(PairPipeline, ReadsPages) {
  auto const in = test::random_inputs<bfloat16>({1, 4, 2, 2, 50, 50, 64, 64}, 9);
  paged_cache<bfloat16> cache({1, 2, 64, 64}, {.pages = 10, .page_tokens = 7});
  test::outputs<bfloat16> got{test::in_pieces(cache, in, [] { return index_t{23}; }), {}, {}};
  reference::options with;
  with.visible = [](reference::place const& at) { return at.key <= at.position(); };
  auto const expected =
      reference::softmax_attention<bfloat16>(in.query.view(), in.key.view(), in.value.view(), with).output;
  EXPECT_TRUE(test::near(got.output.elements, expected, test::tolerance<bfloat16>(test::largest_magnitude(expected))));
}

// A logit's error is at most 3 * 2^-16 of |q| |k|, times the scale (pair_parts.hpp). It is the log-sum-exp's, beside
// that of its exponentials, and weights change by twice as much.
TEST(PairPipeline, RotatesAlmostAsFloatsAre) {
  for (index_t const dimension : {32, 40, 64}) {
    auto const in = test::random_inputs<bfloat16>({1, 8, 2, 2, 100, 300, dimension, dimension}, 14);
    auto const longest = [&](test::tensor<bfloat16, 4> const& of) {
      double most = 0;
      for (std::size_t row = 0; row < of.elements.size(); row += static_cast<std::size_t>(dimension)) {
        double square = 0;
        for (std::size_t c = row; c < row + static_cast<std::size_t>(dimension); ++c)
          square += std::pow(static_cast<double>(static_cast<float>(of.elements[c])), 2);
        most = std::max(most, std::sqrt(square));
      }
      return most;
    };
    double const error = 3 * 0x1p-16 * longest(in.query) * longest(in.key) / std::sqrt(static_cast<double>(dimension));
    double const largest = test::largest_magnitude(in.value.elements);
    auto const check = [&](auto const& position) {
      auto const got = test::attend_to(in, causal{}, position);
      auto const exact = test::attend_to(in, causal{}, position, full_precision{});
      EXPECT_TRUE(test::near(got.log_sum_exp.elements, exact.log_sum_exp.elements, error + test::tolerance<float>(5)))
          << dimension;
      // Both outputs are rounded.
      EXPECT_TRUE(test::near(got.output.elements, exact.output.elements,
                             2 * error * largest + 2 * test::tolerance<bfloat16>(largest)))
          << dimension;
    };
    rotary const settings{rotary_frequencies(dimension)};
    check(settings);
    check(rotary_queries(settings));
  }
}

// Tiles are larger than rows and blocks: what is behind them may not be touched.
TEST(PairPipeline, ReadsNothingPastTheTensors) {
  for (index_t const dimension : {32, 40, 72}) {
    index_t const tokens = 70;
    auto const in = test::random_inputs<bfloat16>({1, 1, 1, 1, tokens, tokens, dimension, dimension}, 13);
    test::end_of_memory<bfloat16> const query(in.query.elements), key(in.key.elements), value(in.value.elements),
        output(in.value.elements);
    auto const at_end = [&](test::end_of_memory<bfloat16> const& of) {
      return tensor_view<bfloat16, 4>(of.data(), {1, 1, tokens, dimension});
    };
    softmax_attention(at_end(query), at_end(key), at_end(value), at_end(output), causal{});
    auto const expected = test::attend_to(in, causal{}).output.elements;
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), output.data())) << "dimension " << dimension;
  }
}

// Values of hidden keys may be anything, and change no bit. With dimension 32 the scale is not a power of two.
TEST(PairPipeline, IgnoresHiddenNaN) {
  for (index_t const tokens : {60, 400}) {
    auto in = test::random_inputs<bfloat16>({1, 2, 2, 2, tokens, tokens, 32, 32}, 10);
    auto const clean = test::attend_to(in, causal{});
    for (index_t head = 0; head < 2; ++head)
      for (index_t c = 0; c < 32; c += 5)
        in.value.view()(0, head, tokens - 1, c) = bfloat16(std::numeric_limits<float>::quiet_NaN());
    auto const dirty = test::attend_to(in, causal{});
    for (index_t head = 0; head < 2; ++head)
      for (index_t query = 0; query < tokens - 1; ++query)
        for (index_t c = 0; c < 32; ++c)
          ASSERT_EQ(dirty.output.view()(0, head, query, c), clean.output.view()(0, head, query, c))
              << "query " << query;
    EXPECT_TRUE(std::isnan(static_cast<float>(dirty.output.view()(0, 0, tokens - 1, 0))));
  }
}

// exp(-0.69921875) is rounded to 0.49609375, which the first value takes away again: nothing is left.
// Statistics of rows see the logits that the unit has computed, before they are scaled, and their weights before
// rounding.
TEST(PairPipeline, TellsOfItsRows) {
  index_t const queries = 100, keys = 300;
  auto const in = test::random_inputs<bfloat16>({1, 4, 2, 2, queries, keys, 32, 32}, 13);
  auto output = test::filled<bfloat16, 4>({1, 4, queries, 32}, bfloat16(7));
  auto stored = test::filled<float, 4>({1, 4, queries, keys}, 7), logit = stored;
  auto masses = test::filled<float, 4>({1, 4, queries, 2}, 7), most = test::filled<float, 4>({1, 4, queries, 1}, 7);
  auto maxima = test::filled<float, 4>({1, 4, 4, 8}, 7);
  auto best = test::filled<std::int32_t, 4>({1, 4, queries, 1}, 7);
  auto disorder = test::filled<float, 3>({1, 4, queries}, 7);
  std::vector<key_range> const ranges{{0, 130}, {130, 290}};
  auto const call = [&](auto const&... options) {
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), window{250, 20}, options...);
  };
  call(weights(stored.view()), logits(logit.view()));
  call(range_mass(ranges, masses.view()), heaviest_keys(best.view(), most.view()), entropy(disorder.view()),
       block_maxima(maxima.view(), {.queries = 30, .keys = 40}));
  auto expected_maxima = test::filled<float, 4>({1, 4, 4, 8}, 0);
  for (index_t h = 0; h < 4; ++h)
    for (index_t i = 0; i < queries; ++i) {
      double mass[2] = {}, of_row = 0;
      index_t largest = 0;
      for (index_t j = 0; j < keys; ++j) {
        float const p = stored.view()(0, h, i, j);
        for (int r = 0; r < 2; ++r)
          if (ranges[static_cast<std::size_t>(r)].contains(j)) mass[r] += p;
        if (p > 0) of_row -= p * std::log(static_cast<double>(p));
        if (logit.view()(0, h, i, j) > logit.view()(0, h, i, largest)) largest = j;
        float& to = expected_maxima.view()(0, h, i / 30, j / 40);
        to = std::max(to, p);
      }
      for (int r = 0; r < 2; ++r) EXPECT_NEAR(masses.view()(0, h, i, r), mass[r], test::tolerance<float>(1));
      EXPECT_NEAR(disorder.view()(0, h, i), of_row, test::tolerance<float>(10));
      EXPECT_EQ(best.view()(0, h, i, 0), largest);
      EXPECT_EQ(most.view()(0, h, i, 0), stored.view()(0, h, i, largest));
    }
  EXPECT_TRUE(test::same_bits(maxima.elements, expected_maxima.elements));
}

TEST(PairPipeline, RoundsWeightsUnlessTold) {
  test::sizes const size{1, 1, 1, 1, 64, 2, 32, 32};  // queries enough for the tiled engine
  auto in = test::random_inputs<bfloat16>(size, 1);
  for (auto* tensor : {&in.query, &in.key, &in.value})
    std::fill(tensor->elements.begin(), tensor->elements.end(), bfloat16(0));
  for (index_t query = 0; query < size.queries; ++query) in.query.view()(0, 0, query, 0) = bfloat16(1);
  in.key.view()(0, 0, 1, 0) = bfloat16(-0.69921875f);
  in.value.view()(0, 0, 0, 0) = bfloat16(-0.49609375f);
  in.value.view()(0, 0, 1, 0) = bfloat16(1);
  double const left = (std::exp(-0.69921875) - 0.49609375) / (1 + std::exp(-0.69921875));
  double const rounding = 0x1p-8 * left;
  auto const output = [&](auto const&... options) {
    return static_cast<double>(static_cast<float>(test::attend_to(in, scale(1), options...).output.view()(0, 0, 0, 0)));
  };
  EXPECT_NEAR(output(full_precision{}), left, rounding);
  if (simd::uses_pair_products())
    EXPECT_EQ(output(), 0);
  else
    EXPECT_NEAR(output(), left, rounding);
}

}  // namespace
}  // namespace attend
