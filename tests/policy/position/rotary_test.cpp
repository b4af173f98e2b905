// SPDX-License-Identifier: BSD-3-Clause
// Rotary positions against their definition: layouts, element types, shapes, positions, axes, tables, turning further.
#include <attend/attention/softmax/rotary_embedding.hpp>
#include <attend/policy/position/rotary.hpp>
#include <attend/reference/rotary_embedding.hpp>

#include <numbers>

#include "support/compare.hpp"
#include "support/expect_error.hpp"
#include "support/random_tensor.hpp"

namespace attend {
using namespace options;
using namespace linear;
using namespace extend;

namespace {

using test::expect_error;

constexpr auto halves = rotary_layout::half_split, interleaved = rotary_layout::interleaved;

/// Of a rotated channel whose pair is at most `largest` in magnitude. In float: the angle, at most pi, is rounded;
/// cosine and sine have 2 ulp, the two products and their sum one rounding each. In double the rounding of the
/// frequency grows with the position, in the kernel as in the definition.
template <class T>
double allowed(double largest, double position) {
  double const u = test::unit_roundoff<accumulation_t<T>>();
  double const angle = std::numbers::pi + (std::same_as<T, double> ? 8 * position : 0);
  double const accumulated = (angle + 8) * u * 2 * largest;
  return std::same_as<T, accumulation_t<T>> ? accumulated : accumulated + test::unit_roundoff<T>() * 2 * largest;
}

reference::rotary_factor powers(index_t dimension, double base, std::function<index_t(index_t, index_t)> position) {
  return [=](index_t batch, index_t token, index_t pair) {
    return std::polar(1.0,
                      static_cast<double>(position(batch, token)) * reference::rotary_frequency(pair, dimension, base));
  };
}

template <class T>
void expect_definition(std::array<index_t, 4> const& extents, index_t rotated, rotary_layout layout, index_t first) {
  SCOPED_TRACE(testing::Message() << extents[2] << " tokens, " << rotated << " of " << extents[3] << " channels, from "
                                  << first);
  auto const x = test::normal<T, 4>(extents, 1);
  auto y = test::filled<T, 4>(extents, T(7));
  rotary_embedding(x.view(), rotary(rotary_frequencies(rotated), layout), y.view(), first);
  auto const expected =
      reference::rotary_embedding<T>(x.view(), rotated / 2, layout == interleaved,
                                     powers(rotated, 10000, [=](index_t, index_t t) { return first + t; }));
  double const last = static_cast<double>(std::abs(first) + extents[2]);
  EXPECT_TRUE(test::near(y.elements, expected, allowed<T>(5, last)));
}

template <class T>
class RotaryOfType : public testing::Test {};
using element_types = testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(RotaryOfType, element_types);

TYPED_TEST(RotaryOfType, FollowsItsDefinition) {
  for (auto const layout : {halves, interleaved}) {
    expect_definition<TypeParam>({2, 3, 19, 64}, 64, layout, 0);
    expect_definition<TypeParam>({1, 2, 5, 33}, 18, layout, 70000);
    expect_definition<TypeParam>({1, 1, 1, 2}, 2, layout, -5);
    expect_definition<TypeParam>({1, 2, 40, 130}, 126, layout, 3);
    expect_definition<TypeParam>({1, 1, 2, 7}, 0, layout, 9);
    expect_definition<TypeParam>({1, 1, 3, 16}, 16, layout, token_limit - 4);
  }
}

TEST(Rotary, ExtentsMayBeZero) {
  float none = 0;
  for (std::array<index_t, 4> const extents : {std::array<index_t, 4>{0, 2, 3, 4}, {2, 0, 3, 4}, {2, 2, 0, 4}}) {
    tensor_view<float, 4> const empty(&none, extents);
    EXPECT_NO_THROW(rotary_embedding(empty, rotary(rotary_frequencies(4)), empty));
  }
  tensor_view<float, 4> const no_channels(&none, {2, 2, 3, 0});
  EXPECT_NO_THROW(rotary_embedding(no_channels, rotary(rotary_frequencies(0)), no_channels));
}

TEST(Rotary, InPlaceAndStridedGiveTheSameBits) {
  for (auto const layout : {halves, interleaved}) {
    rotary const settings(rotary_frequencies(22), layout);
    // [batch, token, head, dimension] in memory.
    auto const x = test::normal<float, 4>({2, 9, 3, 29}, 4);
    auto y = test::filled<float, 4>({2, 3, 9, 29}, 0.0f), z = x;
    auto const swapped = []<class U>(U* data) {
      return tensor_view<U, 4>(data, {2, 3, 9, 29}, {9 * 3 * 29, 29, 3 * 29, 1});
    };
    rotary_embedding(swapped(x.elements.data()), settings, y.view());
    rotary_embedding(swapped(z.elements.data()), settings, swapped(z.elements.data()), token_positions(), threads{3});
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 3; ++h)
        for (index_t t = 0; t < 9; ++t)
          for (index_t c = 0; c < 29; ++c) ASSERT_EQ(y.view()(b, h, t, c), z.view()(b, t, h, c));
  }
}

TEST(Rotary, PositionsComeFromTensors) {
  auto const x = test::normal<double, 4>({2, 2, 4, 12}, 5);
  std::vector<std::int64_t> const wide{5, 0, 900, 5, -3, 7, 7, 1};
  std::vector<std::int32_t> const narrow(wide.begin(), wide.end());
  auto const at = [&](index_t batch, index_t token) {
    return static_cast<index_t>(wide[static_cast<std::size_t>(4 * batch + token)]);
  };
  auto const expected = reference::rotary_embedding<double>(x.view(), 6, false, powers(12, 10000, at));
  rotary const settings(rotary_frequencies(12));
  auto y = test::filled<double, 4>(x.extents, 0.0);
  rotary_embedding(x.view(), settings, y.view(), tensor_view<std::int64_t const, 2>(wide.data(), {2, 4}));
  EXPECT_TRUE(test::near(y.elements, expected, allowed<double>(5, 900)));
  auto z = test::filled<double, 4>(x.extents, 0.0);
  rotary_embedding(x.view(), settings, z.view(), tensor_view<std::int32_t const, 2>(narrow.data(), {2, 4}));
  EXPECT_EQ(y.elements, z.elements);
  // One row of positions for both batches, and every token at one place.
  rotary_embedding(x.view(), settings, z.view(), std::vector<std::int64_t>{3, 3, 3, 3});
  rotary_embedding(x.view(), settings, y.view(), token_positions::all_at(3));
  EXPECT_EQ(y.elements, z.elements);
}

TEST(Rotary, LogitsDependOnTheDifferenceOfPositions) {
  auto const q = test::normal<double, 4>({1, 1, 1, 40}, 6), k = test::normal<double, 4>({1, 1, 1, 40}, 7);
  auto const norm = [](test::tensor<double, 4> const& x) {
    double square = 0;
    for (double element : x.elements) square += element * element;
    return std::sqrt(square);
  };
  for (auto const layout : {halves, interleaved}) {
    rotary const settings(rotary_frequencies(40, 500), layout);
    auto const logit = [&](index_t at_query, index_t at_key) {
      auto a = q, b = k;
      rotary_embedding(q.view(), settings, a.view(), at_query);
      rotary_embedding(k.view(), settings, b.view(), at_key);
      double sum = 0;
      for (std::size_t c = 0; c < 40; ++c) sum += a.elements[c] * b.elements[c];
      return sum;
    };
    // Two rotated factors in each of two logits.
    double const rounding = 4 * allowed<double>(norm(q) * norm(k), 1017);
    EXPECT_NEAR(logit(17, 5), logit(1017, 1005), rounding);
    EXPECT_GT(std::abs(logit(17, 5) - logit(17, 6)), rounding);
  }
}

TEST(Rotary, AxesHaveChannelsOfTheirOwn) {
  // Interleaved, an axis is a slice of the channels that is rotated alone.
  auto const x = test::normal<float, 4>({1, 2, 5, 28}, 8);
  auto const positions = std::vector<std::int64_t>{0, 0, 1, 1, 9, 4, 5, 4, 5, 4, 7, 7, 7, 8, 8};
  auto y = test::filled<float, 4>(x.extents, 0.0f), z = y;
  rotary_embedding(x.view(), rotary(rotary_frequencies::axial({12, 6, 10}, 100), interleaved), y.view(),
                   tensor_view<std::int64_t const, 3>(positions.data(), {3, 1, 5}));
  index_t first = 0;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    index_t const count = std::array<index_t, 3>{12, 6, 10}[axis];
    auto const slice = [&]<class U>(U* data) {
      return tensor_view<U, 4>(data + first, {1, 2, 5, count}, x.view().strides());
    };
    rotary_embedding(slice(x.elements.data()), rotary(rotary_frequencies(count, 100), interleaved),
                     slice(z.elements.data()), tensor_view<std::int64_t const, 1>(positions.data() + 5 * axis, {5}));
    first += count;
  }
  EXPECT_TRUE(test::near(y.elements, z.elements, allowed<float>(5, 9)));
  EXPECT_NE(y.elements, x.elements);
}

TEST(Rotary, SectionsShareTheFrequenciesOut) {
  auto const x = test::normal<double, 4>({1, 1, 3, 14}, 9);
  auto const positions = std::vector<std::int64_t>{1, 2, 3, 40, 50, 60, 700, 800, 900};
  auto const expect = [&](rotary_frequencies const& frequencies, std::array<std::size_t, 7> const& axis_of_pair) {
    auto y = test::filled<double, 4>(x.extents, 0.0);
    rotary_embedding(x.view(), rotary(frequencies), y.view(),
                     tensor_view<std::int64_t const, 3>(positions.data(), {3, 1, 3}));
    auto const expected =
        reference::rotary_embedding<double>(x.view(), 7, false, [&](index_t, index_t token, index_t pair) {
          std::size_t const at = 3 * axis_of_pair[static_cast<std::size_t>(pair)] + static_cast<std::size_t>(token);
          return std::polar(1.0, static_cast<double>(positions[at]) * reference::rotary_frequency(pair, 14, 10000));
        });
    EXPECT_TRUE(test::near(y.elements, expected, allowed<double>(5, 900)));
  };
  expect(rotary_frequencies(14).sections({3, 2, 2}), {0, 0, 0, 1, 1, 2, 2});
  expect(rotary_frequencies(14).interleaved_sections({4, 2, 1}), {0, 1, 2, 0, 1, 0, 0});
}

TEST(Rotary, AnglesAndTablesAreTakenAsTheyAre) {
  index_t const tokens = 6, pairs = 9;
  auto const x = test::normal<float, 4>({2, 3, tokens, 20}, 10);
  auto const theta = test::normal<float, 3>({2, tokens, pairs}, 11, 3),
             other = test::normal<float, 3>({2, tokens, pairs}, 12);
  auto const expect = [&](auto const& settings, bool is_interleaved, auto const& factor) {
    auto y = test::filled<float, 4>(x.extents, 0.0f);
    rotary_embedding(x.view(), settings, y.view());
    EXPECT_TRUE(test::near(y.elements, reference::rotary_embedding<float>(x.view(), pairs, is_interleaved, factor),
                           allowed<float>(20, 0)));
  };
  for (auto const layout : {halves, interleaved}) {
    expect(rotary(rotary_angles(theta.view()), layout), layout == interleaved, [&](index_t b, index_t t, index_t i) {
      return std::polar(1.0, static_cast<double>(theta.view()(b, t, i)));
    });
    expect(rotary(rotary_table(theta.view(), other.view()), layout), layout == interleaved,
           [&](index_t b, index_t t, index_t i) {
             return std::complex<double>(theta.view()(b, t, i), other.view()(b, t, i));
           });
  }
}

TEST(Rotary, FrequenciesMayBeOnesOwn) {
  std::vector<double> const radians{0.5, 0, 3.25};
  auto const x = test::normal<double, 4>({1, 1, 8, 6}, 13);
  auto y = x;
  rotary_embedding(x.view(), rotary(rotary_frequencies(radians, 1.5)), y.view());
  auto const expected =
      reference::rotary_embedding<double>(x.view(), 3, false, [&](index_t, index_t token, index_t pair) {
        return std::polar(1.5, static_cast<double>(token) * radians[static_cast<std::size_t>(pair)]);
      });
  EXPECT_TRUE(test::near(y.elements, expected, allowed<double>(8, 30)));
}

TEST(Rotary, TurningFurtherAddsPositions) {
  auto const x = test::normal<double, 4>({2, 2, 10, 24}, 14);
  std::vector<std::int64_t> const further{0, 1, -20, 3000, 5, 6, 7, 8, 9, -10};
  std::vector<std::int64_t> moved;
  for (std::size_t t = 0; t < further.size(); ++t) moved.push_back(40 + static_cast<std::int64_t>(t) + further[t]);
  for (auto const layout : {halves, interleaved}) {
    // The attention factor must count once.
    rotary const settings(rotary_frequencies(20, 10000, yarn_scaling{.factor = 16, .original_length = 4096}), layout);
    EXPECT_GT(settings.angles().attention_factor(), 1.2);
    auto once = x, twice = x;
    rotary_embedding(x.view(), settings, twice.view(), 40);
    rotate_further(twice.view(), settings, twice.view(), further);
    rotary_embedding(x.view(), settings, once.view(), moved);
    EXPECT_TRUE(test::near(twice.elements, once.elements, 2 * allowed<double>(8, 3100)));
  }
}

TEST(Rotary, NtkScalingStretchesTheBase) {
  index_t const d = 64;
  rotary_frequencies const stretched(d, 10000, ntk_scaling{5}), dynamic(d, 10000, dynamic_ntk_scaling{4, 1000, 2000}),
      plain(d, 10000);
  // A power has the relative error of its base and the absolute one of its exponent times the base's logarithm.
  auto const of_power = [](double x) { return 8 * test::unit_roundoff<double>() * x * (1 + std::abs(std::log(x))); };
  for (index_t i = 0; i < d / 2; ++i) {
    double const power = std::pow(10000 * std::pow(5.0, 64.0 / 62), -2.0 * double(i) / 64);
    EXPECT_NEAR(stretched.radians(i), power, of_power(power));
    // 4 * 2 - 3 = 5.
    EXPECT_DOUBLE_EQ(dynamic.radians(i), stretched.radians(i));
  }
  double const fifth = plain.radians(d / 2 - 1) / 5;
  EXPECT_NEAR(stretched.radians(d / 2 - 1), fifth, of_power(fifth));
}

TEST(RotaryErrors, Tensors) {
  auto const x = test::normal<float, 4>({2, 3, 4, 8}, 1);
  auto y = test::filled<float, 4>({2, 3, 4, 8}, 7.0f);
  rotary const settings(rotary_frequencies(8));
  auto const call = [&](auto const& from, auto const& with, auto const& to, token_positions const& positions = {}) {
    return [=] { rotary_embedding(from, with, to, positions); };
  };
  expect_error("y: expected shape [2, 3, 4, 8] (as x), got [1, 3, 4, 8]",
               call(x.view(), settings, tensor_view<float, 4>(y.elements.data(), {1, 3, 4, 8})));
  expect_error("y: expected memory of its own, got memory that overlaps x",
               call(tensor_view<float, 2>(y.elements.data(), {2, 8}), settings,
                    tensor_view<float, 2>(y.elements.data() + 3, {2, 8})));
  expect_error("rotary: expected at most 8 channels (the head dimension), got 10",
               call(x.view(), rotary(rotary_frequencies(10)), y.view()));
  std::vector<std::int64_t> const positions(12);
  expect_error("positions: expected tokens 4 (as the tensor), got 12", call(x.view(), settings, y.view(), positions));
  expect_error("positions: expected batch 2 (as the tensor), got 3",
               call(x.view(), settings, y.view(), tensor_view<std::int64_t const, 2>(positions.data(), {3, 4})));
  expect_error("positions: expected positions below 536870912 in magnitude, got 536870912",
               call(x.view(), settings, y.view(), token_limit - 3));
  expect_error("positions: expected 3 axes of positions, got 2",
               call(x.view(), rotary(rotary_frequencies(8).sections({2, 1, 1})), y.view(),
                    tensor_view<std::int64_t const, 3>(positions.data(), {2, 1, 4})));
  expect_error("threads: expected a count of at least 0, got -1",
               [&] { rotary_embedding(x.view(), settings, y.view(), token_positions(), threads{-1}); });
  EXPECT_TRUE(std::all_of(y.elements.begin(), y.elements.end(), [](float element) { return element == 7; }));
}

TEST(RotaryErrors, Tables) {
  auto const x = test::normal<float, 4>({2, 3, 4, 8}, 1);
  auto y = test::filled<float, 4>({2, 3, 4, 8}, 7.0f);
  auto const table = test::normal<float, 3>({1, 4, 4}, 2), three = test::normal<float, 3>({3, 4, 4}, 2);
  auto const call = [&](auto const& angles, token_positions const& positions) {
    return
        [&y, &x, positions, settings = rotary(angles)] { rotary_embedding(x.view(), settings, y.view(), positions); };
  };
  rotary_table const good(table.view(), table.view());
  expect_error("rotary_table (cosine): expected positions from 0 to 3, got 4", call(good, 1));
  expect_error("rotary_table (cosine): expected positions from 0 to 3, got -1", call(good, -1));
  expect_error("rotary_angles: expected positions from 0 to 3, got 5",
               call(rotary_angles(table.view()), token_positions::all_at(5)));
  expect_error("rotary_table (cosine): expected batch 2 (as the tensor), got 3",
               call(rotary_table(three.view(), three.view()), 0));
  expect_error("rotary_table (sine): expected shape [1, 4, 4] (as cosine), got [3, 4, 4]",
               call(rotary_table(table.view(), three.view()), 0));
  EXPECT_TRUE(std::all_of(y.elements.begin(), y.elements.end(), [](float element) { return element == 7; }));
  expect_error("rotary_angles: expected at least one position, got none", [&] {
    rotary_embedding(tensor_view<float const, 2>(x.elements.data(), {1, 4}),
                     rotary(rotary_angles(tensor_view<float const, 2>(nullptr, {0, 2}))),
                     tensor_view<float, 2>(y.elements.data(), {1, 4}));
  });
}

TEST(RotaryErrors, Frequencies) {
  expect_error("rotary_frequencies: expected an even dimension of at least 0, got 7", [] { rotary_frequencies(7); });
  expect_error("rotary_frequencies: expected an even dimension of at least 0, got -2", [] { rotary_frequencies(-2); });
  expect_error("rotary_frequencies: expected a finite base above 0, got -1", [] { rotary_frequencies(4, -1); });
  expect_error("rotary_frequencies: expected a finite number, got inf",
               [] { rotary_frequencies(std::vector<double>{1, infinity<double>}); });
  expect_error("rotary_frequencies: expected at most 3 axes, got 4", [] { rotary_frequencies::axial({2, 2, 2, 2}); });
  expect_error("rotary_frequencies: expected sections of 4 pairs together, got 5",
               [] { rotary_frequencies(8).sections({2, 3}); });
  expect_error("rotary_frequencies: expected sections of at least 0 pairs, got -1",
               [] { rotary_frequencies(8).interleaved_sections({5, -1}); });
  expect_error("rotary_frequencies: expected 1 to 3 sections, got 0", [] { rotary_frequencies(0).sections({}); });
  expect_error("linear_scaling: expected a factor of at least 1, got 0.5",
               [] { rotary_frequencies(8, 1e4, linear_scaling{0.5}); });
  expect_error("ntk_scaling: expected a finite number, got nan",
               [] { rotary_frequencies(8, 1e4, ntk_scaling{std::numeric_limits<double>::quiet_NaN()}); });
  expect_error("dynamic_ntk_scaling: expected an original length of at least 1, got 0",
               [] { rotary_frequencies(8, 1e4, dynamic_ntk_scaling{2, 0, 10}); });
  expect_error("yarn_scaling: expected finite betas above 0, got -1",
               [] { rotary_frequencies(8, 1e4, yarn_scaling{.factor = 2, .original_length = 10, .beta_fast = -1}); });
  expect_error("positions: expected positions below 536870912 in magnitude, got 9223372036854775807",
               [] { token_positions(std::numeric_limits<index_t>::max()).check("positions", 1, 1, 2); });
  for (double const base : {1.0, 10000.0})
    EXPECT_THROW(rotary_frequencies(8, base, llama3_scaling{8, -infinity<double>, 4, 8192}), argument_error);
  EXPECT_THROW(rotary_frequencies(8, 1, yarn_scaling{4, 4096}), argument_error);
  expect_error("llama3_scaling: expected a low frequency factor below the high one (1), got 4",
               [] { rotary_frequencies(8, 1e4, llama3_scaling{8, 4, 1, 8192}); });
}

}  // namespace
}  // namespace attend
