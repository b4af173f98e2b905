// SPDX-License-Identifier: BSD-3-Clause
// One program for several processors: kernels.cpp is compiled for each, and the best one that this processor has runs.
// What is printed about the results is the same everywhere, up to the last digits. ATTEND_DISPATCH=x86-64-v3 in the
// environment chooses another one.
#include "kernels.hpp"

#include <attend/dispatch.hpp>

#include <algorithm>
#include <cmath>
#include <exception>
#include <iostream>
#include <vector>

namespace {

std::vector<float> waves(long count, double step) {
  std::vector<float> numbers(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < numbers.size(); ++i)
    numbers[i] = static_cast<float>(std::sin(step * static_cast<double>(i)));
  return numbers;
}

/// How far causal attention is from its formula in double.
double attention_error(kernels const& best, long tokens, long dimension) {
  std::vector<float> const query = waves(tokens * dimension, 0.7), key = waves(tokens * dimension, 1.3),
                           value = waves(tokens * dimension, 1.9);
  std::vector<float> output(query.size());
  best.attention(query.data(), key.data(), value.data(), output.data(), tokens, dimension);

  auto const at = [&](std::vector<float> const& x, long token, long d) {
    return double{x[static_cast<std::size_t>(token * dimension + d)]};
  };
  double error = 0;
  for (long i = 0; i < tokens; ++i) {
    std::vector<double> sums(static_cast<std::size_t>(dimension));
    double total = 0;
    for (long j = 0; j <= i; ++j) {
      double logit = 0;
      for (long d = 0; d < dimension; ++d) logit += at(query, i, d) * at(key, j, d);
      double const weight = std::exp(logit / std::sqrt(static_cast<double>(dimension)));
      total += weight;
      for (long d = 0; d < dimension; ++d) sums[static_cast<std::size_t>(d)] += weight * at(value, j, d);
    }
    for (long d = 0; d < dimension; ++d)
      error = std::max(error, std::abs(sums[static_cast<std::size_t>(d)] / total - at(output, i, d)));
  }
  return error;
}

/// How far the output of the first step of linear attention is from (q . k) v.
double first_step_error(kernels const& best, long heads, long dimension) {
  std::vector<float> const query = waves(heads * dimension, 0.7), key = waves(heads * dimension, 1.3),
                           value = waves(heads * dimension, 1.9);
  std::vector<float> state(static_cast<std::size_t>(heads * dimension * dimension)), output(query.size());
  best.linear_step(query.data(), key.data(), value.data(), state.data(), output.data(), heads, dimension);

  double error = 0;
  for (long h = 0; h < heads; ++h) {
    double product = 0;
    for (long d = h * dimension; d < (h + 1) * dimension; ++d)
      product += double{query[static_cast<std::size_t>(d)]} * double{key[static_cast<std::size_t>(d)]};
    for (long d = h * dimension; d < (h + 1) * dimension; ++d)
      error = std::max(error, std::abs(product * double{value[static_cast<std::size_t>(d)]} -
                                       double{output[static_cast<std::size_t>(d)]}));
  }
  return error;
}

}  // namespace

int main() try {
  kernels const& best = attend::dispatched<kernels>();
  std::cout << "compiled for " << best.target() << ", and main.cpp for " << attend::runtime::target() << '\n';

  double const attention = attention_error(best, 200, 64), step = first_step_error(best, 4, 32);
  std::cout << "attention differs from its formula by at most " << attention << ", a linear step by " << step << '\n';

  // What attend throws is a class of the target that threw it. Its base is the same everywhere.
  bool refused = false;
  try {
    best.attention(nullptr, nullptr, nullptr, nullptr, 3, 4);
  } catch (std::invalid_argument const& error) {
    std::cout << "without data: " << error.what() << '\n';
    refused = true;
  }
  bool const right = attention < 1e-5 && step < 1e-4 && refused;
  std::cout << (right ? "right\n" : "wrong\n");
  return right ? 0 : 1;
} catch (std::exception const& error) {
  std::cerr << error.what() << '\n';
  return 2;
}
