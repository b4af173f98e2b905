// SPDX-License-Identifier: BSD-3-Clause
// The first program: causal attention on Eigen tensors, eight query heads sharing two key-value heads.
#include <unsupported/Eigen/CXX11/Tensor>

#include <attend/softmax.hpp>

#include <algorithm>
#include <cmath>
#include <iostream>

int main() {
  // "x86-64" alone is slow: docs/troubleshooting.md.
  std::cout << "compiled for " << attend::runtime::target() << '\n';

  using tensor = Eigen::Tensor<float, 4, Eigen::RowMajor>;  // [batch, head, token, dimension]
  tensor q(1, 8, 256, 64), k(1, 2, 256, 64), v(1, 2, 256, 64), o(1, 8, 256, 64);
  q.setRandom();
  k.setRandom();
  v.setRandom();

  attend::softmax_attention(q, k, v, o, attend::causal{});

  // The first token sees itself alone, so every head gives back the first value of the head that it shares.
  float difference = 0;
  for (int head = 0; head < 8; ++head)
    for (int i = 0; i < 64; ++i) difference = std::max(difference, std::abs(o(0, head, 0, i) - v(0, head / 4, 0, i)));
  std::cout << "first token: differs from its value by at most " << difference << '\n';

  // The last one sees all 256, and its output is close to their mean, which is a half for numbers from 0 to 1.
  std::cout << "last token: " << o(0, 0, 255, 0) << ", " << o(0, 0, 255, 1) << ", " << o(0, 0, 255, 2) << ", ...\n";
  return difference < 1e-6f ? 0 : 1;
}
