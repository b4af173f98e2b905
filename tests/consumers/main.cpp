// SPDX-License-Identifier: BSD-3-Clause
// What every consumer compiles: a call whose result is known, since values that are all alike have themselves as mean.
// Weights and weighted values of three keys are summed up and divided: eight roundings of a number of 2.

#include <attend/attend.hpp>

#include <cmath>

int main() {
  Eigen::Tensor<float, 4, Eigen::RowMajor> query(1, 2, 3, 4), key(1, 2, 3, 4), value(1, 2, 3, 4), output(1, 2, 3, 4);
  query.setConstant(1.f);
  key.setConstant(1.f);
  value.setConstant(2.f);
  attend::softmax_attention(query, key, value, output);
  return std::abs(output(0, 1, 2, 3) - 2.f) <= 8 * 0x1p-24f * 2 ? 0 : 1;
}
