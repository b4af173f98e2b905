// SPDX-License-Identifier: BSD-3-Clause
// Attention in one thread of WebAssembly, against its definition; the exit status says whether they agree.
#include <attend/attention/softmax/softmax_attention.hpp>
#include <attend/policy/mask/causal.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  constexpr attend::index_t tokens = 50, dimension = 24;
  std::vector<float> x(tokens * dimension), y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i) * 0.7f) * 2;
  std::array<attend::index_t, 4> const shape{1, 1, tokens, dimension};
  attend::tensor_view<float const, 4> const in(x.data(), shape);
  attend::softmax_attention(in, in, in, attend::tensor_view<float, 4>(y.data(), shape), attend::causal{},
                            attend::threads{4});
  double worst = 0;
  for (std::size_t i = 0; i < tokens; ++i) {
    double weight_sum = 0, sum[dimension] = {};
    for (std::size_t j = 0; j <= i; ++j) {
      double logit = 0;
      for (std::size_t c = 0; c < dimension; ++c) logit += double{x[i * dimension + c]} * double{x[j * dimension + c]};
      double const weight = std::exp(logit / std::sqrt(double{dimension}));
      weight_sum += weight;
      for (std::size_t c = 0; c < dimension; ++c) sum[c] += weight * double{x[j * dimension + c]};
    }
    for (std::size_t c = 0; c < dimension; ++c)
      worst = std::max(worst, std::abs(sum[c] / weight_sum - double{y[i * dimension + c]}));
  }
  std::printf("%s: largest difference %g\n", attend::runtime::target(), worst);
  // 200 unit roundoffs of values of up to 2, at logits that are up to twice those of normal numbers.
  return worst <= 200 * 0x1p-24 * 2 * 2 ? 0 : 1;
}
