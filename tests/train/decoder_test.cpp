// SPDX-License-Identifier: BSD-3-Clause
// The decoder of examples/train on a tiny model: the gradient of all its weights against difference quotients of its
// loss in double, through either attention.
#include "decoder.hpp"

#include "attention.hpp"
#include "weights.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace {

using train::Index;

constexpr Index known = 7;
constexpr train::decoder_shape shape{2, 6, 5, 4, 2, 4, 8};

double loss(std::vector<double> const& log_likelihoods) {
  double sum = 0;
  for (double const one : log_likelihoods) sum -= one;
  return sum;
}

/// Numbers as large as those of a trained model, which training does not begin with.
void draw(train::weights<double>& weights) {
  weights.draw(3, shape.layers);
  weights.numbers *= 12;
}

class TrainDecoder : public testing::TestWithParam<char const*> {};

TEST_P(TrainDecoder, HasTheGradientOfItsLoss) {
  train::weights<double> weights(shape, known), gradient(shape, known);
  draw(weights);
  // Some token comes twice, and some never.
  std::vector<int> const tokens{1, 4, 2, 2, 6, 0, 5, 1};
  train::decoder_pass<double> pass(shape, [] { return train::make_attention<double>(GetParam(), shape); });
  double const factor = .37;
  gradient.numbers.setConstant(NAN);  // all of it is written
  pass.forward(weights, tokens);
  pass.backward(weights, factor, gradient);

  // Four losses, around 20, give a quotient that is wrong by their roundings, some 20 * 2^-52 / step, and by a fifth
  // derivative, step^4: both far below 1e-8.
  double const step = 1e-4;
  for (auto const& at : weights.places()) {
    double largest = 0;
    for (Index n = at.first; n < at.first + at.rows * at.columns; ++n) {
      double const number = weights.numbers[n];
      auto const loss_at = [&](double difference) {
        weights.numbers[n] = number + difference;
        return loss(pass.forward(weights, tokens));
      };
      double const near = loss_at(step) - loss_at(-step), far = loss_at(2 * step) - loss_at(-2 * step);
      weights.numbers[n] = number;
      double const quotient = factor * (8 * near - far) / (12 * step);
      EXPECT_NEAR(gradient.numbers[n], quotient, 1e-8 * (1 + std::abs(quotient))) << at.name << " at " << n - at.first;
      largest = std::max(largest, std::abs(quotient));
    }
    EXPECT_GT(largest, 1e-3) << at.name << " has no influence, which tests nothing";
  }
}

INSTANTIATE_TEST_SUITE_P(Attention, TrainDecoder, testing::Values("softmax", "linear"));

}  // namespace
