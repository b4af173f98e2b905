// SPDX-License-Identifier: BSD-3-Clause
// AdamW, after the gradient was made no longer than 1, with the rate of each step.
//
//   g = g min(1, 1 / |g|)
//   m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
//   w = w (1 - rate decay) - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
//
// Cost: six numbers read or written for each weight.
//
// Ilya Loshchilov, Frank Hutter: Decoupled Weight Decay Regularization, 2019.
#pragma once

#include <Eigen/Core>

#include <algorithm>
#include <cmath>

namespace train {

/// It rises for the first steps, is constant, and falls to nothing in the last fifth.
inline double rate_at(int step, int steps) {
  double const rate = 4e-3, warm_up = 20, fall = .2;
  return rate * std::min({(step + 1) / warm_up, 1., (steps - step) / (fall * steps)});
}

template <class T>
class adam_w {
 public:
  using numbers = Eigen::Matrix<T, Eigen::Dynamic, 1>;

  /// The first `free` weights do not decay.
  adam_w(Eigen::Index size, Eigen::Index free)
      : mean_(numbers::Zero(size)), square_(numbers::Zero(size)), decayed_(size - free) {}

  /// Changes the weights, and the gradient too.
  void step(numbers& weights, numbers& gradient, double rate) {
    double const beta1 = .9, beta2 = .95, epsilon = 1e-8, decay = .1, smallest = 1e-6;
    ++steps_;
    gradient *= static_cast<T>(std::min(1., 1 / (static_cast<double>(gradient.norm()) + smallest)));
    weights.tail(decayed_) *= static_cast<T>(1 - rate * decay);
    mean_ = T(beta1) * mean_ + T(1 - beta1) * gradient;
    square_ = T(beta2) * square_ + T(1 - beta2) * gradient.cwiseAbs2();
    auto const of_mean = static_cast<T>(rate / (1 - std::pow(beta1, steps_)));
    auto const of_root = static_cast<T>(1 / std::sqrt(1 - std::pow(beta2, steps_)));
    weights.array() -= of_mean * mean_.array() / (of_root * square_.array().sqrt() + T(epsilon));
  }

 private:
  numbers mean_, square_;
  Eigen::Index decayed_;
  int steps_ = 0;
};

}  // namespace train
