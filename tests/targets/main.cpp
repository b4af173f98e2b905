// SPDX-License-Identifier: BSD-3-Clause
// Two translation units for two instruction sets in one program, OLDER and NEWER, each compared with the formulae; and
// the older one alone on a processor that lacks the newer set. Ends with 0 if all is right.
#include <attend/core/processor.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "results.hpp"

void OLDER(inputs const&, results&);
void NEWER(inputs const&, results&);

namespace {

inputs in;
double softmax[results::count], linear[results::count];
double linear_terms = 0;  // the largest sum of the magnitudes of a linear output's terms

void fill(float* numbers, int count, double step) {
  for (int i = 0; i < count; ++i) numbers[i] = static_cast<float>(std::sin(step * i));
}

/// Causal softmax attention and causal linear attention, in double.
void expect() {
  constexpr int dimension = results::dimension, tokens = results::tokens;
  for (int head = 0; head < results::heads; ++head) {
    int const key_head = head / (results::heads / results::key_heads);
    for (int i = 0; i < tokens; ++i) {
      int const row = (head * tokens + i) * dimension;
      double total = 0, magnitude[dimension] = {};
      for (int j = 0; j <= i; ++j) {
        int const key_row = (key_head * tokens + j) * dimension;
        double product = 0;
        for (int d = 0; d < dimension; ++d) product += double{in.query[row + d]} * double{in.key[key_row + d]};
        double const weight = std::exp(product / std::sqrt(double{dimension}));
        total += weight;
        for (int d = 0; d < dimension; ++d) {
          softmax[row + d] += weight * double{in.value[key_row + d]};
          linear[row + d] += product * double{in.value[key_row + d]};
          magnitude[d] += std::abs(product * double{in.value[key_row + d]});
        }
      }
      for (int d = 0; d < dimension; ++d) softmax[row + d] /= total;
      linear_terms = std::max(linear_terms, *std::max_element(magnitude, magnitude + dimension));
    }
  }
}

bool close(char const* unit, char const* what, float const* got, double const* expected, double bound) {
  double error = 0;
  for (int i = 0; i < results::count; ++i) error = std::max(error, std::abs(double{got[i]} - expected[i]));
  std::printf("%s: %s differs from its formula by at most %g\n", unit, what, error);
  return error <= bound;
}

/// Results are within 200 unit roundoffs of the numbers that they are sums of; all inputs are at most 1. In half, both
/// factors of a logit are rounded, and a logit is at most sqrt(dimension); a mean of numbers from -1 to 1 moves by no
/// more than the logits do; values and outputs are rounded too.
bool right(char const* unit, void run(inputs const&, results&)) {
  static results out;
  run(in, out);
  double const of_float = 200 * 0x1p-24, of_half = (2 * std::sqrt(double{results::dimension}) + 2) * 0x1p-11;
  bool const softmax_right = close(unit, "softmax", out.softmax, softmax, of_float);
  bool const linear_right = close(unit, "linear", out.linear, linear, of_float * linear_terms);
  bool const cached_right = close(unit, "cached", out.cached, softmax, of_float);
  bool const half_right = close(unit, "cached half", out.cached_half, softmax, of_half + of_float);
  return softmax_right && linear_right && cached_right && half_right && out.refused;
}

}  // namespace

int main() {
  fill(in.query, results::count, 0.7);
  fill(in.key, results::key_count, 1.3);
  fill(in.value, results::key_count, 1.9);
  expect();
  bool all_right = right("older", OLDER);
  if (attend::detail::features_of_this_processor().includes(attend::detail::processor::NEEDED))
    all_right = right("newer", NEWER) && all_right;
  // Once more, with whatever memory the other one left.
  all_right = right("older", OLDER) && all_right;
  return all_right ? 0 : 1;
}
