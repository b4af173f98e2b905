// SPDX-License-Identifier: BSD-3-Clause
// Gradients of bfloat16 where a matrix unit may be used: several tiles and blocks, masks with holes, hidden NaN.
// Compiled for the processor at hand and with the units of tests/emulated_pairs.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/causal.hpp>
#include <attend/policy/mask/predicate.hpp>
#include <attend/policy/mask/window.hpp>
#include <attend/policy/precision.hpp>
#include <attend/policy/score/softcap.hpp>
#include <attend/policy/sequence/sequences.hpp>

#include "support/problem.hpp"
#include "support/softmax_gradients.hpp"

namespace attend::test {
namespace {

// Keys that are not a multiple of 32, rows of several tiles, dimensions that are none of a tile's.
TEST(BackwardPairs, AgreesForAnyShapeAndMask) {
  unsigned seed = 40;
  for (sizes const& s : {sizes{1, 2, 1, 2, 70, 300, 40, 24},
                         {2, 4, 2, 1, 140, 133, 64, 48},
                         {1, 2, 2, 2, 33, 31, 7, 72},
                         {1, 1, 1, 1, 600, 290, 32, 16}}) {
    auto const in = random_inputs<bfloat16>(s, ++seed);
    auto const of_output = gradient_of_output(in);
    reference::options with;
    EXPECT_TRUE(agrees(in, of_output, with, 1)) << s.queries;
    with.visible = reference::causal_bottom_right();
    EXPECT_TRUE(agrees(in, of_output, with, 1, causal{})) << s.queries;
    with.visible = reference::sliding_window(37, 0);
    EXPECT_TRUE(agrees(in, of_output, with, 1, window{37, 0})) << s.queries;
  }
}

/// Shows runs of a few keys, of which a block has several.
struct runs_of_keys : full {
  static constexpr index_t period = 50, length = 21;

  template <class T>
  key_range next(tile_rows<T> const& rows, index_t from) const {
    index_t const start = from % period < length ? from : round_up(from, period);
    return {std::min(start, rows.keys), std::min(start / period * period + length, rows.keys)};
  }
  template <class T>
  auto visible(mask_place<T> const& at) const {
    return typename simd::integers<T>::truth(at.key_index % period < length);
  }
};

// Of the queries, groups see none of them: so do whole tiles.
TEST(BackwardPairs, AgreesOnRunsOfKeys) {
  auto const in = random_inputs<bfloat16>({1, 2, 1, 1, 170, 280, 32, 32}, 51);
  auto const of_output = gradient_of_output(in);
  reference::options with;
  with.visible = [](reference::place const& at) { return at.key % runs_of_keys::period < runs_of_keys::length; };
  EXPECT_TRUE(agrees(in, of_output, with, 1, runs_of_keys{}));
  with.visible = [](reference::place const& at) {
    return at.key % runs_of_keys::period < runs_of_keys::length && at.position() / 40 % 2 == 0;
  };
  EXPECT_TRUE(
      agrees(in, of_output, with, 1, runs_of_keys{} & mask([](auto query, auto) { return query / 40 % 2 == 0; })));
}

TEST(BackwardPairs, AgreesWithScoresScalesAndLengths) {
  auto const in = random_inputs<bfloat16>({2, 2, 2, 2, 60, 150, 32, 32}, 52);
  auto const of_output = gradient_of_output(in);
  std::vector<std::int64_t> const queries{60, 37}, keys{41, 103};
  reference::options with;
  with.visible = reference::causal_bottom_right();
  with.query_length = [&](index_t b) { return queries[static_cast<std::size_t>(b)]; };
  with.key_length = [&](index_t b) { return keys[static_cast<std::size_t>(b)]; };
  with.scale = -0.3;
  with.scores = {[](double s, reference::place const&) { return 3 * std::tanh(s / 3); }};
  EXPECT_TRUE(agrees(in, of_output, with, 2, causal{}, padded(queries, keys), scale{-0.3}, softcap{3.}));
}

// Rows that are not finite are left to the products in float, for their block alone: what is hidden adds nothing.
TEST(BackwardPairs, HiddenPairsAddNothing) {
  auto in = random_inputs<bfloat16>({1, 2, 2, 2, 90, 300, 32, 48}, 53);
  auto of_output = gradient_of_output(in);
  bfloat16 const nan(std::numeric_limits<float>::quiet_NaN()), infinite(std::numeric_limits<float>::infinity());
  reference::options with;
  with.visible = [](reference::place const& at) { return at.query != 7 && at.key != 40 && at.key != 290; };
  auto const call = mask([](auto query, auto key) { return (query != 217) & (key != 40) & (key != 290); });
  std::fill_n(&in.key.view()(0, 1, 40, 0), 32, nan);
  std::fill_n(&in.value.view()(0, 1, 290, 0), 48, infinite);
  EXPECT_TRUE(agrees(in, of_output, with, 1, call));
  std::fill_n(&in.query.view()(0, 1, 7, 0), 32, infinite);
  std::fill_n(&of_output.view()(0, 0, 7, 0), 48, nan);
  EXPECT_TRUE(agrees(in, of_output, with, 1, call));
}

TEST(BackwardPairs, BitsAreTheSameForAnyThreadsAndBatch) {
  auto const in = random_inputs<bfloat16>({2, 2, 1, 1, 520, 1040, 16, 16}, 54);
  auto const of_output = gradient_of_output(in);
  auto const part = [](auto view) {
    auto extents = view.extents();
    extents[0] = 1;
    return decltype(view)(view.data(), extents, view.strides());
  };
  auto const run = [&](auto const& some, auto executor) {
    auto output = filled<bfloat16, 4>(of_output.extents, bfloat16(0));
    auto lse = filled<float, 3>({2, 2, 520}, 0.f);
    gradient_tensors<bfloat16> all{filled<bfloat16, 4>(in.query.extents, bfloat16(7)),
                                   filled<bfloat16, 4>(in.key.extents, bfloat16(7)),
                                   filled<bfloat16, 4>(in.value.extents, bfloat16(7))};
    softmax_attention(in.query.view(), in.key.view(), in.value.view(), output.view(), causal{},
                      log_sum_exp(lse.view()));
    softmax_attention_backward(some(in.query.view()), some(in.key.view()), some(in.value.view()), some(output.view()),
                               some(lse.view()), some(of_output.view()), some(all.query.view()), some(all.key.view()),
                               some(all.value.view()), causal{}, executor);
    return all;
  };
  auto const every = [](auto view) { return view; };
  auto const alone = run(every, serial{}), shared = run(every, threads{3}), first = run(part, serial{});
  for (auto const member :
       {&gradient_tensors<bfloat16>::query, &gradient_tensors<bfloat16>::key, &gradient_tensors<bfloat16>::value}) {
    auto const &all = (alone.*member).elements, &one = (first.*member).elements;
    EXPECT_EQ(all, (shared.*member).elements);
    EXPECT_TRUE(std::equal(one.begin(), one.begin() + static_cast<std::ptrdiff_t>(one.size() / 2), all.begin()));
  }
}

// Of 2^-8 of a weight nothing is left where it is asked for; what the gradients themselves are rounded by is.
TEST(BackwardPairs, FullPrecisionRoundsTheGradientsAlone) {
  auto const in = random_inputs<bfloat16>({1, 1, 1, 1, 40, 90, 32, 32}, 55);
  auto const of_output = gradient_of_output(in);
  auto const exact = gradients_of(in, of_output, {}, full_precision{}), rounded = gradients_of(in, of_output, {});
  auto const expected = reference::softmax_backward<bfloat16>(in.query.view(), in.key.view(), in.value.view(),
                                                              std::as_const(of_output).view());
  for (std::size_t i = 0; i < expected.value.size(); ++i) {
    double const x = expected.value[i];
    EXPECT_NEAR(static_cast<double>(exact.value.elements[i]), x, 0x1p-8 * std::abs(x) + 1e-5 * expected.value_terms);
  }
  EXPECT_EQ(exact.value.elements != rounded.value.elements, simd::uses_pair_products());
}

}  // namespace
}  // namespace attend::test
