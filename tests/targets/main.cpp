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
      double total = 0;
      for (int j = 0; j <= i; ++j) {
        int const key_row = (key_head * tokens + j) * dimension;
        double product = 0;
        for (int d = 0; d < dimension; ++d) product += double{in.query[row + d]} * double{in.key[key_row + d]};
        double const weight = std::exp(product / std::sqrt(double{dimension}));
        total += weight;
        for (int d = 0; d < dimension; ++d) {
          softmax[row + d] += weight * double{in.value[key_row + d]};
          linear[row + d] += product * double{in.value[key_row + d]};
        }
      }
      for (int d = 0; d < dimension; ++d) softmax[row + d] /= total;
    }
  }
}

bool close(char const* unit, char const* what, float const* got, double const* expected, double bound) {
  double error = 0;
  for (int i = 0; i < results::count; ++i) error = std::max(error, std::abs(double{got[i]} - expected[i]));
  std::printf("%s: %s differs from its formula by at most %g\n", unit, what, error);
  return error < bound;
}

/// All numbers are at most 1. In float a sum of 24 x 32 products is off by less than 768 halves of an ulp of 32; in
/// half inputs and outputs are rounded to 11 bits, of which a logit, at most 6, keeps its part.
bool right(char const* unit, void run(inputs const&, results&)) {
  static results out;
  run(in, out);
  bool const softmax_right = close(unit, "softmax", out.softmax, softmax, 1e-5);
  bool const linear_right = close(unit, "linear", out.linear, linear, 1e-3);
  bool const cached_right = close(unit, "cached", out.cached, softmax, 1e-5);
  bool const half_right = close(unit, "cached half", out.cached_half, softmax, 2e-2);
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
