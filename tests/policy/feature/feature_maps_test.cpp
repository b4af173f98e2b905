// SPDX-License-Identifier: BSD-3-Clause
// Feature maps on their own: rows of features against the formulas, their products, and what they leave of the row past
// them.
#include <attend/policy/feature/elu.hpp>
#include <attend/policy/feature/exponential.hpp>
#include <attend/policy/feature/hedgehog.hpp>
#include <attend/policy/feature/random_features.hpp>
#include <attend/policy/feature/relu.hpp>
#include <attend/policy/feature/rotation.hpp>
#include <attend/policy/feature/silu.hpp>
#include <attend/policy/feature/softmax_features.hpp>
#include <attend/policy/feature/standardized.hpp>
#include <attend/policy/feature/taylor.hpp>
#include <attend/policy/feature/with_constant.hpp>

#include <numbers>

#include "support/sequence_problem.hpp"

namespace attend {
using namespace options;
using namespace linear;
using namespace extend;

namespace {

using reference::row;

/// The features of some rows of normal numbers, [count][features]. What is past them must be as it was, or 0.
template <class A, class Map>
std::vector<row> features_of(Map const& map, std::vector<row> const& x, index_t position = 0,
                             token_side side = token_side::key) {
  index_t const count = index_t(x.size()), dimension = index_t(x[0].size()), features = map.features(dimension);
  index_t const raw = round_up(dimension, simd::width<A>), stride = round_up(features, index_t{16}) + 16;
  scratch memory;
  A* const from = memory.allocate<A>(count * raw);
  A* const to = memory.allocate<A>(count * stride);
  std::fill_n(to, count * stride, A(0));
  for (index_t i = 0; i < count; ++i)
    for (index_t c = 0; c < dimension; ++c) from[i * raw + c] = static_cast<A>(x[std::size_t(i)][std::size_t(c)]);
  map.fill(token_rows<A>{from, raw, count, dimension, side, 0, 0, position, position}, to, stride);
  std::vector<row> result;
  for (index_t i = 0; i < count; ++i) {
    result.emplace_back(to + i * stride, to + i * stride + features);
    for (index_t c = features; c < stride; ++c) EXPECT_EQ(to[i * stride + c], 0) << "past the features";
  }
  return result;
}

template <class A>
std::vector<row> rows(index_t count, index_t dimension, unsigned seed) {
  auto const numbers = test::normal<A, 2>({count, dimension}, seed);
  std::vector<row> result;
  for (index_t i = 0; i < count; ++i)
    result.emplace_back(numbers.elements.begin() + i * dimension, numbers.elements.begin() + (i + 1) * dimension);
  return result;
}

/// Every row's features within some roundings of those of formula(row).
template <class A, class Map, class Formula>
void expect_features(Map const& map, Formula&& formula) {
  for (index_t dimension : {1, 2, 7, 16, 33, 64}) {
    auto const x = rows<A>(11, dimension, unsigned(dimension));
    auto const got = features_of<A>(map, x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      row const expected = formula(x[i]);
      double largest = 0;
      for (double e : expected) largest = std::max(largest, std::abs(e));
      EXPECT_TRUE(test::near(got[i], expected, test::tolerance<A>(largest))) << "dimension " << dimension;
    }
  }
}

template <class Function>
auto each(Function&& function) {
  return [=](row x) {
    for (double& e : x) e = function(e);
    return x;
  };
}

TEST(FeatureMaps, ElementByElement) {
  expect_features<float>(exponential_features{}, each([](double x) { return std::exp(x); }));
  expect_features<double>(exponential_features{}, each([](double x) { return std::exp(x); }));
  expect_features<float>(silu_features{}, each(test::silu));
  expect_features<double>(silu_features{}, each(test::silu));
  expect_features<float>(elementwise_features([](auto const& x) { return x * x; }),
                         each([](double x) { return x * x; }));
}

TEST(FeatureMaps, SoftmaxOverFeatures) {
  expect_features<float>(softmax_features{}, test::softmax_of);
  expect_features<double>(softmax_features{}, test::softmax_of);
  auto const large = features_of<float>(softmax_features{}, {{1e30, -1e30, 1e30}, {-1e38, -1e38, -1e38}});
  EXPECT_EQ(large[0], (row{0.5, 0, 0.5}));
  // Three equal numbers, their sum and a quotient.
  EXPECT_NEAR(large[1][1], 1.0 / 3, 4 * test::unit_roundoff<float>() / 3);
}

TEST(FeatureMaps, HedgehogIsASoftmaxOfBothSigns) {
  expect_features<float>(hedgehog_features<float>{}, [](row x) {
    std::size_t const count = x.size();
    for (std::size_t c = 0; c < count; ++c) x.push_back(-x[c]);
    return test::softmax_of(x);
  });
}

TEST(FeatureMaps, WithAConstant) {
  expect_features<float>(with_constant(relu_features{}), [](row x) {
    for (double& e : x) e = std::max(e, 0.0);
    x.push_back(1);
    return x;
  });
}

TEST(FeatureMaps, StandardizedRows) {
  expect_features<float>(standardized(identity_features{}), [](row x) {
    double mean = 0, square = 0;
    for (double e : x) mean += e / double(x.size());
    for (double e : x) square += (e - mean) * (e - mean) / double(x.size());
    for (double& e : x) e = square == 0 ? 0 : (e - mean) / std::sqrt(square);
    return x;
  });
}

TEST(FeatureMaps, StandardizedRowsHaveAnyMagnitude) {
  standardized const map(identity_features{});
  for (index_t dimension : {3, 64, 100}) {
    auto const count = std::size_t(dimension);
    for (double x : {0.0, 0.1, -3e38, 1e-42})
      EXPECT_EQ(features_of<float>(map, {row(count, x)})[0], row(count, 0.0)) << x;
    auto const normal = rows<float>(1, dimension, 9);
    auto const expected = features_of<float>(map, normal)[0];
    double largest = 0;
    for (double x : expected) largest = std::max(largest, std::abs(x));
    for (double factor : {0x1p-80, 0x1p-120, 0x1p100, 0x1p125}) {
      row scaled = normal[0];
      for (double& x : scaled) x *= factor;
      // Small ones lose digits where they are no longer normal numbers.
      EXPECT_TRUE(test::near(features_of<float>(map, {scaled})[0], expected, test::tolerance<float>(largest)))
          << factor;
    }
    // One unit of the last place is all that stands out.
    row nearly(count, double(0.1f));
    nearly[1] = double(std::nextafter(0.1f, 1.f));
    row const got = features_of<float>(map, {nearly})[0];
    // In such units the first mean is off by at most half as many as it has numbers. The second mean has a rounding of
    // that, and so has the difference from it; then come variance, root and product. The deviation is root / dimension.
    double const root = std::sqrt(double(dimension - 1));
    double const allowed = double(dimension + 4) * test::unit_roundoff<float>() * double(dimension) / root;
    EXPECT_NEAR(got[1], root, allowed);
    EXPECT_NEAR(got[0], -1 / root, allowed);
  }
}

TEST(FeatureMaps, TaylorProductsArePolynomials) {
  for (index_t dimension : {1, 2, 7, 16, 33, 64})
    for (double scale : {0.0, 0.3, 1.0}) {
      auto const x = rows<double>(5, dimension, unsigned(dimension) + 100), y = rows<double>(5, dimension, 200);
      for (auto form : {taylor_form::order_1, taylor_form::full, taylor_form::packed}) {
        taylor_features const map(form, scale);
        auto const px = features_of<double>(map, x), py = features_of<double>(map, y);
        for (std::size_t i = 0; i < x.size(); ++i) {
          double const z = scale * reference::dot(x[i], y[i]);
          double terms = 0;
          for (std::size_t c = 0; c < x[i].size(); ++c) terms += scale * std::abs(x[i][c] * y[i][c]);
          auto const polynomial = [&](double of) { return 1 + of + (form == taylor_form::order_1 ? 0 : of * of / 2); };
          EXPECT_NEAR(reference::dot(px[i], py[i]), polynomial(z), test::tolerance<double>(polynomial(terms)));
        }
      }
    }
  EXPECT_EQ(taylor_features(taylor_form::full).features(16), 273);
  EXPECT_EQ(taylor_features(taylor_form::packed).features(16), 153);
  EXPECT_EQ(taylor_features(taylor_form::order_1).features(16), 17);
  // Without a scale of its own: 1 / sqrt(dimension).
  auto const x = rows<float>(2, 16, 1);
  EXPECT_FLOAT_EQ(float(features_of<float>(taylor_features{}, x)[0][3]), float(x[0][2]) / 2);
}

TEST(FeatureMaps, TaylorRefusesWhatDoesNotFit) {
  state_shape shape;
  shape.key_dimension = 16;
  EXPECT_NO_THROW(taylor_features{}.check(shape));
  EXPECT_THROW(taylor_features(taylor_form::packed, -1.0).check(shape), argument_error);
  EXPECT_THROW(taylor_features(taylor_form::packed, infinity<double>).check(shape), argument_error);
  shape.key_dimension = 1025;
  EXPECT_THROW(taylor_features{}.check(shape), argument_error);
}

TEST(FeatureMaps, RotationsTurnWithThePosition) {
  std::vector<double> const angles = {1.0, 0.1, 1e-4, -2.5, 0.0};
  auto const x = rows<float>(100, 5, 3);
  for (index_t position : {0, 77, 100000, 20000000}) {
    auto const got = features_of<float>(rotated(identity_features{}, angles, 3), x, position);
    for (std::size_t i = 0; i < x.size(); ++i)
      for (std::size_t c = 0; c < 5; ++c) {
        double const angle = angles[c] * double(position + 3 + index_t(i));
        // Up to fifteen turns in float, each of which rounds a step, two products and their sum, in two channels;
        // cosine and product; and the angle, in double, there as here.
        double const of_float = (15 * 3 * std::numbers::sqrt2 + 2) * test::unit_roundoff<float>();
        double const of_angle = 2 * test::unit_roundoff<double>() * std::abs(angle);
        double const allowed = (of_float + of_angle) * std::abs(x[i][c]);
        ASSERT_NEAR(got[i][c], x[i][c] * std::cos(angle), allowed) << position << ' ' << i;
        ASSERT_NEAR(got[i][5 + c], x[i][c] * std::sin(angle), allowed) << position << ' ' << i;
      }
  }
}

TEST(FeatureMaps, DirectionsAreOrthogonalInBlocks) {
  index_t const dimension = 24, count = 60;
  auto const directions = orthogonal_directions(count, dimension, 1);
  auto const direction = [&](index_t r) {
    return row(directions.begin() + r * dimension, directions.begin() + (r + 1) * dimension);
  };
  double squares = 0, longest = 0;
  for (index_t r = 0; r < count; ++r) longest = std::max(longest, reference::dot(direction(r), direction(r)));
  double const allowed = test::tolerance<double>(longest);
  for (index_t r = 0; r < count; ++r) {
    squares += reference::dot(direction(r), direction(r)) / double(count);
    for (index_t s = r / dimension * dimension; s < r; ++s)
      EXPECT_NEAR(reference::dot(direction(r), direction(s)), 0, allowed) << r << ' ' << s;
  }
  // Squared lengths are those of normal vectors: 24 on average, each with a variance of twice as much; four
  // deviations of their mean.
  EXPECT_NEAR(squares, double(dimension), 4 * std::sqrt(2 * double(dimension) / double(count)));
  EXPECT_EQ(directions, orthogonal_directions(count, dimension, 1));
  EXPECT_NE(directions, orthogonal_directions(count, dimension, 2));
}

TEST(FeatureMaps, OrthogonalDirectionsVaryLess) {
  // The mean over draws of the estimate of exp(x . y) is right, and blocks have a smaller deviation than single draws.
  index_t const dimension = 8, draws = 400;
  auto const x = rows<double>(1, dimension, 5)[0], y = rows<double>(1, dimension, 6)[0];
  auto const estimate = [&](std::vector<double> const& directions) {
    double sum = 0;
    for (std::size_t r = 0; r < directions.size(); r += std::size_t(dimension)) {
      double exponent = 0;
      for (std::size_t c = 0; c < x.size(); ++c)
        exponent += directions[r + c] * (x[c] + y[c]) / 2 - (x[c] * x[c] + y[c] * y[c]) / 8;
      sum += std::exp(exponent);
    }
    return sum * double(dimension) / double(directions.size());
  };
  double const exact = std::exp(reference::dot(x, y) / 4);
  double mean = 0, group_size = 0, singly = 0;
  for (index_t draw = 0; draw < draws; ++draw) {
    double const blocks = estimate(orthogonal_directions(dimension, dimension, std::uint64_t(draw)));
    std::vector<double> apart;
    for (index_t r = 0; r < dimension; ++r) {
      auto const one = orthogonal_directions(1, dimension, std::uint64_t(1000 + draw * dimension + r));
      apart.insert(apart.end(), one.begin(), one.end());
    }
    mean += blocks / double(draws);
    group_size += (blocks - exact) * (blocks - exact) / double(draws);
    singly += (estimate(apart) - exact) * (estimate(apart) - exact) / double(draws);
  }
  EXPECT_NEAR(mean, exact, 4 * std::sqrt(group_size / double(draws)));
  EXPECT_LT(group_size, singly);
}

}  // namespace
}  // namespace attend
