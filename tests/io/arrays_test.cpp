// SPDX-License-Identifier: BSD-3-Clause
// Arrays of a reader of weights: as matrices and vectors, and refused where a shape is another or a number not finite.
#include "arrays.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

/// A reader with arrays of its own.
struct some_weights {
  struct array {
    std::vector<std::int64_t> shape;
    std::vector<float> numbers;
  };
  std::map<std::string, array> arrays;

  std::string file() const { return "some.weights"; }
  array const& at(std::string const& name) const { return arrays.at(name); }
  template <class T>
  std::vector<T> values(std::string const& name) const {
    std::vector<T> result;
    for (float const number : arrays.at(name).numbers) result.push_back(static_cast<T>(number));
    return result;
  }
};

template <class Read>
std::string refusal(Read const& read) {
  try {
    read();
  } catch (std::runtime_error const& error) {
    return error.what();
  }
  return "not refused";
}

TEST(Arrays, AreReadRowByRow) {
  some_weights const weights{{{"w", {{2, 3}, {1, 2, 3, 4, 5, 6}}}, {"b", {{2}, {7, 8}}}, {"none", {{0, 3}, {}}}}};
  attend_io::matrix const matrix = attend_io::read_matrix(weights, "w", 2, 3);
  EXPECT_EQ(matrix(0, 2), 3);
  EXPECT_EQ(matrix(1, 0), 4);
  EXPECT_EQ(attend_io::read_matrix<Eigen::half>(weights, "w", 2, 3)(1, 2), Eigen::half(6));
  EXPECT_EQ(attend_io::read_vector(weights, "b", 2)[1], 8);
  EXPECT_EQ(attend_io::read_matrix(weights, "none", 0, 3).size(), 0);
}

TEST(Arrays, OfOtherShapesAreRefused) {
  some_weights const weights{{{"w", {{2, 3}, {1, 2, 3, 4, 5, 6}}}, {"one", {{}, {1}}}}};
  EXPECT_EQ(refusal([&] { attend_io::read_matrix(weights, "w", 3, 2); }),
            "some.weights: w: expected shape [3, 2], got [2, 3]");
  EXPECT_EQ(refusal([&] { attend_io::read_vector(weights, "w", 6); }),
            "some.weights: w: expected shape [6], got [2, 3]");
  EXPECT_EQ(refusal([&] { attend_io::read_vector(weights, "one", 1); }),
            "some.weights: one: expected shape [1], got []");
}

TEST(Arrays, WithNumbersThatAreNotFiniteAreRefused) {
  float const infinity = std::numeric_limits<float>::infinity();
  for (float const number : {NAN, infinity, -infinity}) {
    some_weights const weights{{{"b", {{3}, {1, number, 2}}}}};
    EXPECT_EQ(refusal([&] { attend_io::read_vector(weights, "b", 3); }),
              "some.weights: b: expected finite numbers, got " + std::to_string(number) + " at 1");
  }
  some_weights const largest{{{"b", {{1}, {std::numeric_limits<float>::max()}}}}};
  EXPECT_EQ(refusal([&] { attend_io::read_vector(largest, "b", 1); }), "not refused");
}

}  // namespace
